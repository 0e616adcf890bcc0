"""Long commands on a tiny model, and the files that they leave: what `kill.py` harms."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from _forked import command, forked, side_by_side

import edgewise as ew
from edgewise.runs import RunOptions
from edgewise.transcoders.formats import write as write_transcoders

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.bench.toys import bench_file, save_model, save_pairs
from tests.transcoders.files import made
from tests.transcoders.toys import learn


class Job(NamedTuple):
    """A command, and the files that it leaves."""

    name: str
    run: Callable[[Path], None]
    """In a folder."""
    leaves: tuple[str, ...]
    given: tuple[str, ...] = ()
    """Files that it is given there."""


def jobs(here: Path) -> list[Job]:
    """All commands; what they are given lies here."""
    save_model(here / "model")
    save_pairs(here / "pairs.jsonl")
    bench_file(here, here / "b.yaml", methods=["eap", {"name": "ours", "method": "ranking", "steps": 8}], seeds=[0])
    given, model = here / "given", here / "model"
    write_transcoders(made("relu"), here / "t.safetensors")
    find = ["find", "--model", model, "--task", here / "pairs.jsonl", "--sparsity", "0.6"]
    forked(lambda: command(*find, "--method", "eap", "--out", given))

    def search(out: Path) -> None:
        loaded = ew.load_model(str(model))
        task = ew.tasks.from_file(str(here / "pairs.jsonl"), loaded.tokenizer)
        options = RunOptions(out=out, checkpoint_seconds=0.0, progress=False)
        scores = ew.learn_ranking(ew.Engine(loaded), task, ew.RankingConfig(steps=40, batch_size=4), options=options)
        scores.save(out / "scores.safetensors")

    def train(out: Path) -> None:
        write_transcoders(next(iter(learn(out).transcoders.values())), out / "trained")

    convert = ["transcoder", "convert", here / "t.safetensors"]
    graph = ["attribute", "Mary ran to the mat", "--model", model, "--max-nodes", "60", "--set", "batch=10"]
    return [
        Job("find", lambda out: command(*find, "--steps", "30", "--out", out), ("circuit.safetensors",)),
        Job("find, a checkpoint a step", search, ("scores.safetensors",)),
        Job("train, a checkpoint a step", train, ("trained",)),
        Job("attribute", lambda out: command(*graph, "--out", out), ("graph.safetensors", "pruned.safetensors")),
        Job(
            "attribute, two processes",
            lambda out: side_by_side(2, lambda: command(*graph, "--out", out)),
            ("graph.safetensors", "pruned.safetensors"),
        ),
        Job("bench", lambda out: command("bench", here / "b.yaml", "--out", out), ("bench.parquet",)),
        Job(
            "evaluate",
            lambda out: command("evaluate", out / "circuit.safetensors"),
            ("evaluation.json",),
            ("circuit.safetensors",),
        ),
        Job(
            "view",
            lambda out: command("view", out, "--no-open", "--out", out / "page.html"),
            ("page.html",),
            ("circuit.safetensors",),
        ),
        Job(
            "convert",
            lambda out: command(*convert, out / "theirs", "--to", "saelens", "--force"),
            ("theirs",),
        ),
    ]
