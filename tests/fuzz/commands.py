"""Command lines and settings made wrong: every command with its options odd, doubled, left out or exchanged."""

import os
import random
import sys
import tempfile
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import typer.main

from edgewise._errors import InputError
from edgewise.attribution import AttributionConfig
from edgewise.cli import main
from edgewise.discovery import methods
from edgewise.runs import parse_settings
from edgewise.transcoders.training import TrainingConfig

ODD = [
    "", " ", "-1", "0", "1", "nan", "inf", "1e999", "-1e-9", "9" * 30, "none", "None", "true", "0.5", "[", "{}", "%s",
    "*", "a" * 3000, "\x1b[31mred", "\udcff", "é", "a,b", "1,2", ",", "=", "x=", "../..", "missing/x", "--help", "--",
    "-h", "hf:nobody/nothing", "hf://nobody/nothing", "cuda:99", "float16", "kl", "logit_diff", "m0.n1@2",
    "tracr:reverse",
]  # fmt: skip
SETTINGS = ["steps", "pairs", "points", "batch_size", "learning_rate", "thresholds", "methods", "seed", "explains"]
COMMANDS = [
    "find --model {model} --task {pairs} --out out --method eap --sparsity 0.6",
    "find --model {model} --task {pairs} --out out --method ranking --steps 2 --batch-size 2",
    "find --model {model} --task {pairs} --out out --method acdc --threshold 0.5 --set pairs=2",
    "evaluate {circuit} --baselines none --metrics kl,accuracy --split test",
    "curve {circuit} curve.png --sparsities 0.5,0.9",
    "draw {circuit} c.svg",
    "view {run} --out page.html --no-open",
    "plan --config {model}/config.json --batch 2 --length 6",
    "mib {circuit} --model {model} --task {pairs}",
    "compare {circuit} {circuit} --task {pairs}",
    "import {edges} --model {model} --out imported --task {pairs}",
    "export {circuit} edges.json --d-model 16",
    "tasks check {pairs} --model {model}",
    "tasks list",
    "methods ranking",
    "models check {model}",
    "models list",
    "attribute {model} cat --model {model} --out graph --max-nodes 4",
    "attribute cat --model {model} --out graph --max-nodes 4 --target mat",
    "transcoder show {model}",
    "transcoder convert {model} x --to saelens",
    "bench {bench} --out bench",
    "plot {run}/curve.json --out curve.svg",
]


def line_of(places: dict[str, str], draw: random.Random) -> list[str]:
    """A command line, most often with something wrong."""
    words = [word.format(**places) for word in draw.choice(COMMANDS).split()]
    for _ in range(draw.choice((0, 1, 1, 1, 2, 4))):
        at, how = draw.randrange(len(words)), draw.randrange(6)
        if how == 0:
            del words[at]
            words = words or ["--help"]
        elif how == 1:
            words.insert(at, draw.choice(ODD))
        elif how == 2:
            words[at] = draw.choice(list(places.values()))
        elif how == 3:
            words += ["--set", f"{draw.choice(SETTINGS)}={draw.choice(ODD)}"]
        elif how == 4:
            other = draw.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        else:
            words[at] = draw.choice(ODD)
    return words


def settings_of_a_method(draw: random.Random) -> None:
    """`--set` of some configuration: read, checked, or refused."""
    configs: list[Any] = [*(each.config for each in methods().values()), AttributionConfig, TrainingConfig]
    config = draw.choice(configs)
    names = [field.name for field in fields(config)] or ["x"]
    texts = [f"{draw.choice(names)}={draw.choice(ODD)}" for _ in range(draw.choice((1, 1, 2)))]
    try:
        given = parse_settings("--set", config, texts)
        config(**({"layers": (0,)} | given if config is TrainingConfig else given))
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error


_get_command = typer.main.get_command
_command = lru_cache(_get_command)  # made once: it takes as long as most commands


def run(words: list[str]) -> tuple[int, str, str]:
    """The command line in this process: its exit status, output and errors."""
    kept = [os.dup(1), os.dup(2)]
    streams = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115 (closed below)
    before = sys.argv, sys.stdout, sys.stderr
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
    sys.argv, status = ["edgewise", *words], 0
    typer.main.get_command = _command
    sys.stdout, sys.stderr = (open(n, "w", closefd=False, encoding="utf-8") for n in (1, 2))  # noqa: SIM115
    try:
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.argv, sys.stdout, sys.stderr = before
        typer.main.get_command = _get_command
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)
    texts = []
    for stream in streams:
        stream.seek(0)
        texts.append(stream.read().decode(errors="replace"))
        stream.close()
    return status, texts[0], texts[1]


def check(words: list[str]) -> None:
    """Run a command line; what it got wrong must be one line, and nothing must steer the terminal."""
    status, out, err = run(words)
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert "Traceback" not in out + err, err[-2000:]
    assert "\x1b" not in out + err, f"an escape in {(out + err)!r:.300}"
    if status == 2 and not out.startswith(("Usage", "\n Usage")) and "Usage" not in out:
        assert len(lines) == 1 and lines[0].startswith("edgewise: "), (words, err[-2000:])
    assert status in (0, 1, 2), status


def made_places(folder: Path) -> dict[str, str]:
    """A model, pairs, a circuit and the like, for the command lines."""
    import json

    from tests.fuzz.targets import OLD, _model_folder

    model, pairs = folder / "model", folder / "pairs.jsonl"
    _model_folder(model)
    rows = [
        {"clean": f"{a} ran to the {b}", "corrupted": f"{b} ran to the {a}", "answer": " mat", "wrong_answer": " rug"}
        for a in ("Mary", "Ann", "Lee") for b in ("Sue", "John")
    ]  # fmt: skip
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = run(["find", "--model", str(model), "--task", str(pairs), "--out", str(folder / "run"),
                          "--method", "eap", "--sparsity", "0.6"])  # fmt: skip
    assert status == 0, err
    circuit = folder / "run" / "circuit.safetensors"
    status, _, err = run(["export", str(circuit), str(folder / "edges.json")])
    assert status == 0, err
    return {
        "model": str(model),
        "pairs": str(pairs),
        "circuit": str(circuit),
        "run": str(folder / "run"),
        "edges": str(folder / "edges.json"),
        "bench": str(OLD / "bench.yaml"),
    }
