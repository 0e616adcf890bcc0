"""Finding, judging, drawing and checking models on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig
from typer.core import TyperGroup
from typer.main import get_command

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.cli._app import app
from edgewise.cli._compare import _told_apart
from edgewise.discovery import Scores, method, methods
from edgewise.graph import Ablation, Graph, GraphSpec
from edgewise.runs import settings_of
from tests.cli.commands import PNG, Cli, find
from tests.discovery.toys import random_task

# ------------------------------------------------------------------------------------------------------- what works


SMALL = {"steps": 3, "points": 2, "pairs": 2}
"""Settings of the methods that have them, for runs of a moment."""


@pytest.mark.parametrize("name", [name for name, each in methods().items() if each.ladder is None])
def test_find_writes_a_circuit_of_at_most_the_size_asked_for(
    cli: Cli, model: Path, pairs: Path, tmp_path, found: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    record = method(name)
    own = {key: value for key, value in SMALL.items() if key in settings_of(record.config)}
    options = [part for key, value in own.items() for part in (f"--{key}", value)]
    options += ["--batch-size", 4] if record.learns else []
    options += ["--start", found] if record.start == "must" else []
    ran = cli(*find(model, pairs, tmp_path, "--method", name, *options))
    assert ran.status == 0, ran.err
    circuit = Circuit.load(tmp_path / "circuit.safetensors")
    assert 0 < circuit.n_actual <= 0.4 * circuit.graph.n_edges
    assert circuit.provenance["method"]["name"] == name
    assert name == "ensemble" or {"examples", "seconds"} < circuit.provenance["cost"].keys()
    assert circuit.provenance["model"]["id"] == str(model) and circuit.provenance["task"]["name"] == "pairs"
    assert f"{circuit.n_edges:,} edges, {circuit.n_actual:,} actual" in ran.out
    # What the user is told has a line each, with the path in one piece, so that it can be copied.
    assert str(tmp_path / "circuit.safetensors") in ran.out
    beside = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert beside <= {"circuit.safetensors", "checkpoint.safetensors"}
    folders = {f"member-{i}" for i in range(8)} if name == "ranking-ensemble" else set()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == folders
    # The same command again, even for another size of the same scores, is taken as the same run.
    monkeypatch.setattr("edgewise.discovery.run_method", _taken)
    command = find(model, pairs, tmp_path, "--method", name, *options, size=0.6 if record.sized else 0.5)
    assert "taken as the same run" in cli.refused(*command)


def test_find_starts_from_saved_scores_as_from_a_circuit_that_has_them(
    cli: Cli, model: Path, pairs: Path, tmp_path, found: Path
):
    circuit = Circuit.load(found)
    Scores.of(circuit).save(tmp_path / "scores.safetensors")
    replace(circuit, scores=None).save(tmp_path / "bare.safetensors")
    made = dict[str, Circuit]()
    for name, start in {"circuit": found, "scores": tmp_path / "scores.safetensors"}.items():
        own = ("--method", "refine", "--steps", 2, "--batch-size", 4, "--start", start)
        assert cli(*find(model, pairs, tmp_path / name, *own)).status == 0
        made[name] = Circuit.load(tmp_path / name / "circuit.safetensors")
    assert torch.equal(made["circuit"].kept, made["scores"].kept)
    refused = cli.refused(
        *find(model, pairs, tmp_path / "none", "--method", "refine", "--start", tmp_path / "bare.safetensors")
    )
    assert "with scores" in refused


def _taken(*_: Any, **__: Any) -> None:
    raise InputError("taken as the same run")


def test_find_by_acdc_is_as_large_as_its_threshold_makes_it(cli: Cli, model: Path, pairs: Path, tmp_path):
    sizes = []
    for threshold in (0.0001, 0.5):
        out = tmp_path / str(threshold)
        assert (
            cli(*find(model, pairs, out, "--method", "acdc", "--threshold", threshold, "--pairs", 3, size=None)).status
            == 0
        )
        circuit = Circuit.load(out / "circuit.safetensors")
        sizes.append(circuit.n_edges)
        assert (
            circuit.provenance["method"]["config"]["threshold"] == threshold
            and circuit.provenance["cost"]["examples"] == 3
        )
    assert sizes[0] > sizes[1]
    said = cli.refused(*find(model, pairs, tmp_path / "0.5", "--method", "eap", size=0.5))
    assert "(acdc; other method, settings)" in said and "--force" in said


def test_a_circuit_with_learned_constants_is_judged_with_them(cli: Cli, model: Path, pairs: Path, tmp_path):
    learned = ("--method", "ranking", "--ablation", "optimal", "--steps", 3, "--batch-size", 4)
    assert cli(*find(model, pairs, tmp_path, *learned)).status == 0
    assert (tmp_path / "constants.safetensors").is_file()
    ran = cli("evaluate", tmp_path / "circuit.safetensors", "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["conditions"]["ablation"]["kind"] == "learned"
    (tmp_path / "constants.safetensors").unlink()
    assert "constants" in cli.refused("evaluate", tmp_path / "circuit.safetensors")


@pytest.mark.parametrize("kind", ["mean", "mean-positional"])
def test_a_circuit_under_means_is_judged_with_them(cli: Cli, model: Path, pairs: Path, tmp_path, kind: str):
    assert cli(*find(model, pairs, tmp_path, "--method", "eap", "--ablation", kind)).status == 0
    ran = cli("evaluate", tmp_path / "circuit.safetensors", "--json")
    assert ran.status == 0, ran.err
    ablation = json.loads(ran.out)["conditions"]["ablation"]
    assert (ablation["kind"], ablation["source"]) == (kind, "means over pairs train, clean")
    assert cli("curve", tmp_path / "circuit.safetensors", tmp_path / "c.png", "--sparsities", "0.5").status == 0
    assert cli("mib", tmp_path / "circuit.safetensors", "--no-bos").status == 0
    other = tmp_path / "other"
    assert cli(*find(model, pairs, other, "--method", "random", "--ablation", kind)).status == 0
    both = (tmp_path / "circuit.safetensors", other / "circuit.safetensors")
    assert cli("compare", *both).status == 0
    (fewer := tmp_path / "fewer.jsonl").write_text("".join(pairs.read_text().splitlines(keepends=True)[1:]))
    assert cli(*find(model, fewer, other, "--method", "random", "--ablation", kind, "--force")).status == 0
    assert "constants are not those of" in cli.refused("compare", *both)


def test_settings_are_given_by_name(cli: Cli, model: Path, pairs: Path, tmp_path):
    given = ("--set", "qk_fix=yes", "--set", "pairs=3", "--set", "explains=log_prob")
    assert cli(*find(model, pairs, tmp_path, "--method", "eap", *given)).status == 0
    said = Circuit.load(tmp_path / "circuit.safetensors").provenance
    assert said["method"]["config"]["qk_fix"] is True and said["cost"]["examples"] == 3
    assert said["method"]["config"]["explains"] == "log_prob" and said["task"]["metric"] == "logit_diff"
    assert said["method"]["selection"] == "absolute"


@pytest.mark.parametrize(("has_it", "kind"), [("bfloat16", "bfloat16"), ("float32", "float32")])
def test_find_in_bfloat16_where_the_processor_has_it(
    cli: Cli, model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_it: str, kind: str
):
    monkeypatch.setattr("edgewise.runs.fastest_precision", lambda device: has_it)
    quick = ("--method", "ranking", "--preset", "quick", "--steps", 2)
    ran = cli(*find(model, pairs, tmp_path, *quick, "--dtype", "auto"))
    assert ran.status == 0, ran.err
    circuit = Circuit.load(tmp_path / "circuit.safetensors")
    assert circuit.provenance["model"]["dtype"] == kind
    assert circuit.provenance["method"]["config"]["steps"] == 2
    assert cli("evaluate", tmp_path / "circuit.safetensors").status == 0  # in float32


def test_find_takes_the_graph_and_ablation_asked_for(cli: Cli, model: Path, pairs: Path, tmp_path):
    choices = ("--embeddings", "split", "--ablation", "zero", "--seed", 3)
    assert cli(*find(model, pairs, tmp_path, "--method", "eap", *choices)).status == 0
    circuit = Circuit.load(tmp_path / "circuit.safetensors")
    assert circuit.graph.spec.embeddings == "split" and circuit.provenance["ablation"]["kind"] == "zero"
    # A file is dealt out without the seed: another seed's circuit is judged on pairs that neither was found on.
    assert circuit.provenance["task"]["arguments"]["seed"] == 0


def test_find_run_again_does_not_repeat_the_work_and_finds_the_same(cli: Cli, model: Path, pairs: Path, tmp_path):
    command = find(model, pairs, tmp_path, "--method", "ranking", "--steps", 3, "--batch-size", 4)
    circuits = []
    for _ in range(2):
        assert cli(*command).status == 0
        circuits.append(Circuit.load(tmp_path / "circuit.safetensors"))
    assert torch.equal(circuits[0].kept, circuits[1].kept)
    scores = [circuit.scores for circuit in circuits]
    assert scores[0] is not None and scores[1] is not None and torch.equal(scores[0], scores[1])
    assert "settings" in cli.refused(*command, "--seed", 1)  # a checkpoint of another run


def test_evaluate_prints_json_and_nothing_else(cli: Cli, found: Path):
    ran = cli("evaluate", found, "--json")
    assert ran.status == 0 and ran.err == ""
    result = json.loads(ran.out)
    circuit = Circuit.load(found)
    assert (result["edges"], result["actual_edges"]) == (circuit.n_edges, circuit.n_actual)
    assert result["total_edges"] == circuit.graph.n_edges and result["n"] == 2
    assert set(result["metrics"]["kl"]) >= {"value", "low", "high", "full", "empty", "random", "eap"}
    assert result["metrics"]["logit_diff"]["random"] is not None
    assert json.loads((found.parent / "evaluation.json").read_text()) == result


def test_evaluate_prints_a_table(cli: Cli, found: Path, pairs: Path, model: Path):
    choices = ("--task", pairs, "--model", model, "--split", "train", "--baselines", "none")
    ran = cli("evaluate", found, *choices)
    assert ran.status == 0 and ran.err == ""
    assert "kl" in ran.out and "logit_diff" in ran.out and "split train" in ran.out
    # Another task's numbers do not take the place of the own task's.
    assert json.loads((found.parent / f"evaluation-{pairs.stem}.json").read_text())["conditions"]["split"] == "train"


def test_another_models_numbers_have_a_file_of_their_own(cli: Cli, found: Path, other_weights: Path, tmp_path):
    ran = cli("evaluate", found, "--model", other_weights, "--baselines", "none")
    assert ran.status == 0 and "found on weights" in ran.err
    assert (found.parent / "evaluation-other-weights.json").is_file()
    curve = cli("curve", found, tmp_path / "c.png", "--model", other_weights, "--sparsities", "0.5")
    assert curve.status == 0 and "found on weights" in curve.err


def test_compare_tells_two_seeds_of_a_built_in_task_apart():
    def made(name: str, seed: int | None) -> Any:
        return replace(random_task(), name=name, provenance={"arguments": {} if seed is None else {"seed": seed}})

    def named(*tasks: Any) -> list[str]:
        return [task.name for task in _told_apart(list(tasks))]

    assert named(made("ioi", 0), made("ioi", 1), made("pairs", 0)) == ["ioi (seed 0)", "ioi (seed 1)", "pairs"]
    assert named(made("ioi", None), made("ioi", None)) == ["ioi (number 1)", "ioi (number 2)"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_draw_draws(cli: Cli, found: Path, tmp_path, suffix: str):
    path = tmp_path / f"circuit.{suffix}"
    ran = cli("draw", found, path)
    assert ran.status == 0, ran.err
    data = path.read_bytes()
    assert data.startswith(PNG) if suffix == "png" else b"<svg" in data
    assert str(path) in ran.out


def test_draw_of_absolute_scores_gives_sign_a_colour(cli: Cli, tmp_path):
    graph = Graph(GraphSpec(1, 1, 1))
    scores = torch.linspace(-3, 1, graph.n_edges)
    for absolute in (True, False):
        found = Scores(graph, scores, {}, ablation=Ablation("zero")).at(0.01, absolute=absolute)
        found.save(tmp_path / "circuit.safetensors")
        assert cli("draw", tmp_path / "circuit.safetensors", tmp_path / "circuit.svg").status == 0
        assert ("negative score" in (tmp_path / "circuit.svg").read_text("utf-8")) == absolute


def test_curve_judges_every_size_and_draws(cli: Cli, found: Path, tmp_path):
    ran = cli("curve", found, tmp_path / "c.png", "--sparsities", "0.3,0.8", "--split", "validation", "--json")
    assert ran.status == 0
    row = json.loads(ran.out)
    large, small = row["points"]
    assert large["edges"] > small["edges"] > 0 and row["conditions"]["split"] == "validation"
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)
    assert json.loads((tmp_path / "c.json").read_text()) == row
    assert "actual edges" in cli("curve", found, tmp_path / "c.svg").out


@pytest.mark.parametrize("sizes", ["", "0.9;0.8", "1", "nan", "0.5,2"])
def test_sizes_that_are_none_are_refused(cli: Cli, found: Path, tmp_path, sizes: str):
    assert "between 0 and 1" in cli.refused("curve", found, tmp_path / "c.png", "--sparsities", sizes)


def test_a_curve_that_cannot_be_drawn_is_refused(cli: Cli, found: Path, tmp_path):
    assert "choose .png" in cli.refused("curve", found, tmp_path / "c.txt")
    bare = tmp_path / "bare.safetensors"
    circuit = Circuit.load(found)
    Circuit(circuit.graph, circuit.kept, None, circuit.provenance).save(bare)
    assert "no scores" in cli.refused("curve", bare, tmp_path / "c.png")


def test_models_check_prints_json_and_nothing_else(cli: Cli, model: Path):
    ran = cli("models", "check", model, "--json")
    assert ran.status == 0 and ran.err == ""
    row = json.loads(ran.out)
    assert row["passed"] is True and row["model"] == str(model) and row["family"] == "gpt2"
    assert row["full_mask_error"] < 1e-4 and row["empty_mask_error"] < 1e-4 and row["edges"] > 0


def test_models_check_prints_a_line(cli: Cli, model: Path):
    ran = cli("models", "check", model)
    assert ran.status == 0 and "accepted" in ran.out and len(ran.out.splitlines()) == 1


def test_models_list_names_them(cli: Cli):
    ran = cli("models", "list")
    assert ran.status == 0 and "smollm2-135m" in ran.out and "gpt2" in ran.out


def test_plan(cli: Cli, tmp_path: Path):
    GPT2Config(n_layer=2, n_head=4, n_embd=32).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    row = json.loads(cli("plan", "--config", config, "--batch", 4, "--length", 7, "--dtype", "bf16", "--json").out)
    assert row["edges"] == 110 and (row["batch"], row["length"], row["dtype"]) == (4, 7, "bf16")
    for mode in row["modes"].values():
        assert mode["total_bytes"] == sum(mode["bytes"].values())
        assert mode["bytes_above_weights"] == mode["total_bytes"] - mode["bytes"]["weights"]
        assert mode["total_operations"] == sum(mode["operations"].values())
    shared = json.loads(cli("plan", "--config", config, "--batch", 4, "--length", 7, "--ranks", 4, "--json").out)
    alone = json.loads(cli("plan", "--config", config, "--batch", 1, "--length", 7, "--json").out)
    assert shared["modes"]["lean"]["bytes"] == alone["modes"]["lean"]["bytes"]
    assert shared["modes"]["lean"]["traffic"] == {"gradients summed over ranks": 2 * 110 * 4}
    one = "--batch", 1, "--length", 28
    by_token = cli("plan", "--config", config, *one, "--ranks", 4, "--share", "tokens", "--json")
    planned = json.loads(by_token.out)["modes"]["default"]
    for stack in ("stack of differences", "stack of gradients"):  # of as many tokens
        assert planned["bytes"][stack] == shared["modes"]["default"]["bytes"][stack]
    assert "attention's inputs of other ranks' tokens" in planned["traffic"]
    shown = " ".join(cli("plan", "--config", config).out.split())  # where a line ends depends on the path
    assert "110 edges" in shown and "lean" in shown and "stack of gradients" in shown


def test_plan_proposes_the_fastest_setting_that_fits(cli: Cli, tmp_path: Path):
    LlamaConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=12, vocab_size=500).save_pretrained(tmp_path)
    plan = "plan", "--config", tmp_path / "config.json", "--length", 20, "--batch"

    def needed(batch: int, memory: str, *more: str) -> int:
        return json.loads(cli(*plan, batch, *more, "--json").out)["modes"][memory]["total_bytes"]

    def proposed(room: int) -> tuple[str, str | None, int] | None:
        fit = json.loads(cli(*plan, 8, "--json", "--fit", f"{room / 1e9:.9f}GB").out)["fit"]
        assert fit is None or fit["total_bytes"] <= room
        return fit and (fit["memory"], fit["offload"], fit["batch"])

    assert proposed(needed(8, "default")) == ("default", None, 8)
    assert proposed(needed(8, "lean")) == ("lean", None, 8)
    assert proposed(needed(8, "default") - 1) in (("lean", None, 8), ("default", "disk", 8))
    assert proposed(needed(1, "lean", "--offload", "disk")) == ("lean", "disk", 1)
    assert proposed(1000) is None
    assert "layers of a step" in cli(*plan, 8, "--offload", "disk").out
    assert "seconds" in cli(*plan, 8, "--measure").out


def test_plan_refusals(cli: Cli, tmp_path: Path):
    config = tmp_path / "config.json"
    assert "no such file" in cli.refused("plan", "--config", config)
    config.write_text("{}")
    assert "not a configuration" in cli.refused("plan", "--config", config)
    assert "--batch 0" in cli.refused("plan", "--config", config, "--batch", 0)
    assert "such as 80GB" in cli.refused("plan", "--config", config, "--fit", "much")
    assert "choose float32, bf16" in cli.refused("plan", "--config", config, "--dtype", "int8")


def _commands(group: TyperGroup, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        inner = isinstance(command, TyperGroup)
        found += [(*before, name), *(_commands(command, (*before, name)) if inner else [])]
    return found


def test_every_command_helps(cli: Cli):
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    commands = _commands(group)
    assert ("transcoder", "convert") in commands
    for command in ((), *commands):
        ran = cli(*command, "--help")
        assert ran.status == 0 and "Usage" in ran.out, command


def test_a_circuit_and_the_model_continue_a_prompt(cli: Cli, found: Path):
    clean, corrupted = (f"{a} ran to the {b} sat on the" for a, b in (("Mary", "Lee"), ("Lee", "Mary")))
    ran = cli("generate", found, clean, "--corrupted", corrupted, "--tokens", 3)
    assert ran.status == 0 and [line.split()[0] for line in ran.out.splitlines()] == ["circuit", "model"]
    whole = json.loads(cli("generate", found, clean, "--corrupted", corrupted, "--tokens", 3, "--json").out)
    assert 1 <= len(whole["circuit"]["ids"]) <= 3
    assert ran.out == f"circuit  {whole['circuit']['text']}\nmodel    {whole['model']['text']}\n"
    assert "give the prompt whose run they carry" in cli.refused("generate", found, clean)
    assert "they go token by token" in cli.refused("generate", found, clean, "--corrupted", "Mary")
