"""`edgewise transcoder dashboard` and `weights`, and what a user can get wrong."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edgewise import InputError
from edgewise.cli._transcoder_inputs import text_rows
from edgewise.transcoders import VirtualTable, generated_tokens
from tests.cli.commands import Cli
from tests.cli.test_transcoder import text, trained
from tests.tiny import tiny

__all__ = ["text", "trained"]  # fixtures

SHORT = ("--context", 8, "--limit", 400)


def test_pages_of_the_layers_asked_for_and_other_tools_files(
    cli: Cli,
    text: Path,
    trained: Path,
    tmp_path: Path,
):
    files = [trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1)]
    labels, out = tmp_path / "labels.csv", tmp_path / "pages"
    labels.write_text("id,label\nm1.f3,a label\nm0.f3,another page's\n")
    run = ("transcoder", "dashboard", *files, "--text", text, *SHORT, "--out", out)
    ran = cli(*run, "--layers", 1, "--labels", labels, "--neuronpedia", "--circuit-tracer", "--connections", 100)
    assert ran.status == 0 and f"written to {out / 'layer1.transcoder.topk2.html'}" in ran.out, ran
    page = (out / "layer1.transcoder.topk2.html").read_text("utf-8")
    header = json.loads(page.split('id="edgewise-header">')[1].split("</script>")[0])
    (found,) = header["features"]
    assert found["labels"] == [["m1.f3", "a label"]] and found["virtual"] == ["inputs"] and found["n"] == 32
    assert not (out / "layer0.transcoder.topk2.html").exists()
    assert (out / "neuronpedia" / "1" / "batch-0.json").is_file() and (out / "circuit-tracer" / "features").is_dir()
    again = cli(*run, "--layers", 1, "--connections", 0, "--set", "listed=2")
    assert again.status == 0 and "running the text" not in again.err
    assert "other settings" in cli.refused(*run, "--layers", 1, "--connections", 0, "--set", "seed=1")
    assert "no transcoder of layer 7" in cli.refused(*run, "--layers", 7)
    assert "layers such as 8,12" in cli.refused(*run, "--layers", "x")
    assert "sample 0" in cli.refused(*run, "--set", "sample=0")
    labels.write_text("a,b\n")
    assert "no labels there" in cli.refused(*run, "--labels", labels)


def test_virtual_weights_in_one_file(cli: Cli, text: Path, trained: Path, tmp_path: Path):
    files = [trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1)]
    run = ("transcoder", "weights", *files, "--text", text, *SHORT, "--set", "kept=3")
    ran = cli(*run, "--out", tmp_path)
    assert ran.status == 0 and "connections in, over" in ran.out, ran
    table = VirtualTable.load(tmp_path / "virtual.safetensors")
    assert set(table.inputs) == {1} and table.inputs[1].weight.shape == (32, 3)
    assert "two layers at least" in cli.refused(
        "transcoder", "weights", files[0], "--text", text, "--out", tmp_path / "x"
    )


def test_a_bare_interrupt_says_so(cli: Cli, text: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("virtual_weights", "make_dashboards"):
        monkeypatch.setattr(f"edgewise.transcoders.{name}", interrupted)
    file = trained / "layer0.transcoder.topk2.safetensors"
    for command in ("weights", "dashboard"):
        ran = cli("transcoder", command, file, "--text", text, *SHORT, "--out", tmp_path / command)
        assert ran.status == 130 and "stopped: interrupted; the same command goes on from there" in ran.out, ran


def test_rules_are_judged_on_the_rows_that_a_dashboard_left(cli: Cli, text: Path, trained: Path, tmp_path: Path):
    below, file = (trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1))
    rules = tmp_path / "rules.json"
    on = ("--text", text, *SHORT, "--hold-out", 0.2)
    assert cli("transcoder", "dashboard", file, *on, "--out", tmp_path / "pages").status == 0
    page = next((tmp_path / "pages").glob("*.html")).read_text("utf-8")
    (shown,) = json.loads(page.split('id="edgewise-header">')[1].split("</script>")[0])["features"]
    rules.write_text('{"m1.f3": "[aeiou]", "m1.f4": "(?i)T.*"}')
    ran = cli(
        "transcoder",
        "score",
        below,
        file,
        rules,
        *on,
        "--out",
        tmp_path / "scores.json",
    )
    assert ran.status == 0 and "balanced accuracy" in ran.out and "m1.f4" in ran.out, ran
    found = json.loads((tmp_path / "scores.json").read_text())
    assert [each["rule"] for each in found["scores"]] == ["[aeiou]", "(?i)T.*"] and found["tokens"] < 400 * 0.2
    assert shown["tokens"] > 400 * 0.6
    assert json.loads(cli("transcoder", "score", file, rules, *on, "--json").out) == found
    assert "10 of these tokens or more" in ran.out and "missed" not in ran.out
    assert all(each["missed"] == [] and len(each["best"]) == min(10, each["better"]) for each in found["scores"])
    rules.write_text('{"m1.f3": "[aeiou]$", "m1.f4": "nowhere"}')
    ran = cli("transcoder", "score", file, rules, *on, "--misses", 2)
    asked = json.loads(cli("transcoder", "score", file, rules, *on, "--misses", 2, "--json").out)
    for each in asked["scores"]:
        for name, title in (("missed", "missed"), ("named_wrongly", "named wrongly")):
            assert len(each[name]) <= 2 and (f"{each['feature']}: {title}" in ran.out) == bool(each[name])
    (_, nowhere) = asked["scores"]
    first = nowhere["missed"][0]
    assert f"{first['wrong']} of {first['of']}" in ran.out and first["examples"][0]["activation"] > 0
    rules.write_text("[]")
    assert "holds no rules" in cli.refused("transcoder", "score", file, rules, *on)
    rules.write_text('{"m1.f99": "a"}')
    assert "no such feature" in cli.refused("transcoder", "score", file, rules, *on)
    assert "last argument is the rules" in cli.refused("transcoder", "score", file, *on)
    assert "give transcoders before" in cli.refused("transcoder", "score", rules, *on)


def test_generated_text_is_the_models_own_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path))
    given = replace(tiny("gpt2", torch.float32), tokenizer=SimpleNamespace(bos_token_id=3, eos_token_id=4))
    rows = text_rows(given, ["generated:2"], 8, 80)
    assert torch.equal(rows.ids, generated_tokens(given, 80, context=8, seed=2).ids)
    assert len(list((tmp_path / "generated").rglob("*.npy"))) == 1
    for wrong, limit in ((["generated"], None), (["generated", "a.txt"], 80), (["generated:x"], 80)):
        with pytest.raises(InputError, match="how many tokens with --limit"):
            text_rows(given, wrong, 8, limit)


def test_a_set_of_another_tools_files_has_its_pages(cli: Cli, model: Path, text: Path, trained: Path, tmp_path: Path):
    source = tmp_path / "few"
    source.mkdir()
    files = [trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1)]
    for file in files:
        (source / file.name).write_bytes(file.read_bytes())
    assert cli("transcoder", "convert", source, tmp_path / "set", "--to", "sparsify").status == 0
    run = ("transcoder", "dashboard", "--model", model, "--text", text, *SHORT, "--out", tmp_path / "pages")
    ran = cli(*run, tmp_path / "set", "--connections", 0)
    assert ran.status == 0, ran
    assert sorted(path.name for path in (tmp_path / "pages").glob("*.html")) == ["set.layer0.html", "set.layer1.html"]
    page = (tmp_path / "pages" / "set.layer1.html").read_text("utf-8")
    (shown,) = json.loads(page.split('id="edgewise-header">')[1].split("</script>")[0])["features"]
    assert shown["files"] == {"0": "set.layer0.html"}
    named_alike = [tmp_path / str(layer) / "mine.safetensors" for layer in (0, 1)]
    for file, place in zip(files, named_alike, strict=True):
        place.parent.mkdir()
        place.write_bytes(file.read_bytes())
    refused = cli.refused(*run[:-1], tmp_path / "other", *named_alike)
    assert "two transcoders are named mine, which would be one page" in refused
    assert not (tmp_path / "other" / "checkpoint.safetensors").exists(), "before the work"
