"""`edgewise transcoder` on a tiny model, and what a user can get wrong."""

import json
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewise.models import Model
from edgewise.transcoders import load as load_transcoder
from edgewise.transcoders.training import TrainingConfig
from edgewise.transcoders.training._train import TranscoderLearner
from tests.cli.commands import WORDS, Cli
from tests.tiny import tiny

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ("--context", 8, "--tokens", 128, "--batch-tokens", 16, "--pool-tokens", 64, "--features", "2x")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{WORDS[i % 15]} {WORDS[i * i % 13]} " for i in range(600)))
    return path


@pytest.fixture
def trained(cli: Cli, model: Path, text: Path, tmp_path: Path) -> Path:
    ran = cli("transcoder", "train", "--model", model, "--text", text, *SMALL, "--activation", "topk:2,relu@0.01",
              "--out", tmp_path / "run")  # fmt: skip
    assert ran.status == 0, ran
    assert "layer1.transcoder.relu@0.01" in ran.out and "8 steps of 16 tokens" in ran.out
    return tmp_path / "run"


def test_train_evaluate_and_convert(cli: Cli, text: Path, trained: Path, tmp_path: Path):
    files = [trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1)]
    ran = cli("transcoder", "evaluate", *files, "--text", text, "--context", 8, "--out", tmp_path / "e.json")
    assert ran.status == 0 and "all of these MLPs" in ran.out, ran
    found = json.loads((tmp_path / "e.json").read_text())
    assert [each["active"] for each in found["transcoders"]] == pytest.approx([2, 2], abs=0.5)
    assert [each["name"] for each in found["transcoders"]] == [file.stem for file in files]
    assert found["conditions"]["held_out"] and "another cut" not in ran.err
    ran = cli("transcoder", "evaluate", files[0], "--text", text, "--context", 8, "--json")
    assert json.loads(ran.out)["original"] == found["original"]
    ran = cli("transcoder", "evaluate", *files, "--text", text, "--context", 8, "--no-ablations", "--json")
    few = json.loads(ran.out)
    assert few["transcoders"] == found["transcoders"] and few["zero"] == few["mean"] == {}
    assert few["all"] == {"replaced": found["all"]["replaced"]}
    ran = cli(
        "transcoder", "evaluate", *files, "--text", text, "--context", 8, "--no-ablations", "--no-alone", "--json"
    )
    least = json.loads(ran.out)
    assert least["all"] == few["all"] and all(each["replaced"] is None for each in least["transcoders"])
    tune = ("transcoder", "tune", *files, "--text", text, "--context", 8, "--out", tmp_path / "tuned")
    ran = cli(*tune, "--tokens", 64, "--set", "batch_tokens=16", "--learning-rate", 1e-3)
    assert ran.status == 0 and "after 4 steps" in ran.out and "KL of the last batch" in ran.out, ran
    tuned = load_transcoder(tmp_path / "tuned" / "layer1.safetensors")
    assert tuned.provenance["method"]["tuned"]["learning_rate"] == 1e-3
    assert "belongs to a run with other settings" in cli.refused(*tune, "--tokens", 2000)
    assert "one transcoder can be tuned" in cli.refused(*tune, files[0])
    ran = cli("transcoder", "evaluate", files[0], "--text", text, "--context", 8, "--hold-out", 0.2)
    assert ran.status == 0 and "trained or tuned on another cut" in ran.err
    where = ("--out", tmp_path / "e.json" / "x.json")
    assert "e.json" in cli.refused("transcoder", "evaluate", files[0], "--text", text, *where)
    ran = cli("transcoder", "convert", files[1], tmp_path / "layers.1.mlp", "--to", "sparsify")
    assert ran.status == 0 and "layer 1 mlp_in" in ran.out
    ran = cli("transcoder", "convert", tmp_path / "layers.1.mlp", tmp_path / "back.safetensors", "--to", "edgewise")
    assert ran.status == 0 and (tmp_path / "back.safetensors").stat().st_size > 0
    again = ("transcoder", "convert", tmp_path / "layers.1.mlp", tmp_path / "other.safetensors", "--to", "edgewise")
    ran = cli(*again, "--reads", "0.resid_mid", "--writes", "0.mlp_out")
    assert ran.status == 0 and "layer 0 resid_mid" in ran.out
    assert "LAYER.KIND" in cli.refused(*again, "--force", "--reads", "mlp")
    refused = cli.refused("transcoder", "convert", files[0], tmp_path / "x", "--to", "saelens")
    assert "no topk:2 activation" in refused
    assert "says so" in cli.refused("transcoder", "convert", files[0], tmp_path / "x", "--to", "edgewise",
                                    "--reads", "0.resid_mid")  # fmt: skip
    assert "give --model" in cli.refused("transcoder", "evaluate", tmp_path / "back.safetensors", "--text", text)


def test_a_finished_run_is_taken_up(cli: Cli, model: Path, text: Path, trained: Path):
    before = (trained / "layer0.transcoder.topk2.safetensors").read_bytes()
    ran = cli("transcoder", "train", "--model", model, "--text", text, *SMALL, "--activation", "topk:2,relu@0.01",
              "--out", trained)  # fmt: skip
    assert ran.status == 0 and "done before: 8 steps" in ran.out
    assert (trained / "layer0.transcoder.topk2.safetensors").read_bytes() == before


def test_sweep_draws_loss_against_active_features(cli: Cli, model: Path, text: Path, tmp_path: Path):
    ran = cli("transcoder", "sweep", "--model", model, "--text", text, *SMALL, "--layers", 1, "--activation",
              "topk:1,topk:4", "--out", tmp_path)  # fmt: skip
    assert ran.status == 0, ran
    assert (tmp_path / "sweep-layer1.png").read_bytes().startswith(PNG)
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert len(found["jobs"]) == 4 and found["config"]["tokens_seen"] == 128


@pytest.mark.parametrize("at", [3, 7])
def test_a_sweep_interrupted_in_any_step_of_its_training_judges_nothing(
    cli: Cli, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
):
    own = TranscoderLearner.step

    def step(self: TranscoderLearner, number: int) -> dict[str, Any]:
        if number == at:
            signal.raise_signal(signal.SIGINT)
        return own(self, number)

    command = ("transcoder", "sweep", "--model", model, "--text", text, *SMALL, "--layers", 1, "--activation", "topk:1",
               "--out", tmp_path)  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(TranscoderLearner, "step", step)
        ran = cli(*command)
    assert ran.status == 130 and f"interrupted after step {at + 1}" in ran.out, ran
    assert not (tmp_path / "sweep.json").exists()
    ran = cli(*command)
    assert ran.status == 0 and (tmp_path / "sweep.json").is_file()


def test_a_sweep_without_matplotlib_has_no_pictures(
    cli: Cli, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = cli("transcoder", "sweep", "--model", model, "--text", text, *SMALL, "--layers", 1, "--activation", "topk:1",
              "--out", tmp_path)  # fmt: skip
    assert ran.status == 0 and "held-out loss" in ran.out and "note: no pictures: drawing needs matplotlib" in ran.err
    assert (tmp_path / "sweep.json").is_file() and not list(tmp_path.glob("*.png"))


def test_a_preset_keeps_what_is_not_asked_for(model: Path):
    from edgewise.cli._transcoder import _Given
    from edgewise.models import load

    def config(loaded: Model, changes: dict[str, Any], **objective: Any) -> TrainingConfig:
        given = _Given(loaded, (0,), "paper", changes, objective, lambda: None, None)
        return given.config(kinds=("transcoder",), reads=None)

    loaded = load(str(model))
    paper = config(loaded, {})
    assert paper == TrainingConfig.paper((0,)) and paper.expansion == 32 and paper.centred
    other = config(loaded, {"expansion": 4.0, "activations": ("relu@1e-3", "topk:2")})
    assert other == TrainingConfig.paper((0,), expansion=4.0, activations=("relu@1e-3", "topk:2"))
    rms = config(tiny("llama-gqa"), {})
    assert not rms.centred, "there an MLP's mean is read"
    assert config(loaded, {}, auxiliary=0.5).objective == replace(paper.objective, auxiliary=0.5)


def test_every_setting_can_be_set(cli: Cli, model: Path, text: Path, tmp_path: Path):
    train = ("transcoder", "train", "--model", model, "--text", text, *SMALL, "--layers", 0, "--out", tmp_path)
    ran = cli(*train, "--activation", "topk:2", "--set", "clip=none", "--set", "unit-norm=yes", "--set", "warmup=3",
              "--set", "objective.auxiliary_k=5")  # fmt: skip
    assert ran.status == 0, ran
    method = load_transcoder(tmp_path / "layer0.transcoder.topk2.safetensors").provenance["method"]
    assert (method["clip"], method["unit_norm"], method["warmup"]) == (None, True, 3)
    assert method["objective"]["auxiliary_k"] == 5 and method["objective"]["auxiliary"] == 1 / 32
    assert "no setting 'clap'" in cli.refused(*train, "--set", "clap=1")
    assert "unit_norm='so'; give True or False" in cli.refused(*train, "--set", "unit_norm=so")
    assert "no setting 'k'" in cli.refused(*train, "--set", "objective.k=1")


def test_training_from_a_cache(cli: Cli, model: Path, text: Path, tmp_path: Path):
    ran = cli("transcoder", "cache", "--model", model, "--text", text, "--context", 8, "--out", tmp_path / "cache")
    assert ran.status == 0 and "4 sites" in ran.out, ran
    command = ("transcoder", "train", "--model", model, "--text", text, *SMALL, "--activation", "topk:2")
    assert cli(*command, "--cache", tmp_path / "cache", "--out", tmp_path / "run").status == 0
    refused = cli.refused(*command, "--cache", tmp_path / "cache", "--hold-out", 0, "--out", tmp_path / "other")
    assert "other tokens" in refused


def test_formats_are_listed(cli: Cli):
    ran = cli("transcoder", "formats")
    assert "sparsify" in ran.out and "gemma-scope-2" in ran.out


def test_what_a_user_can_get_wrong(cli: Cli, model: Path, text: Path, tmp_path: Path):
    command = ["transcoder", "train", "--model", model, "--text", text, *SMALL, "--out", tmp_path / "run"]
    for extra, says in (
        (("--layers", "7"), "the model has 2 layers"),
        (("--layers", "x"), "4-9, or all"),
        (("--layers", "²"), "4-9, or all"),
        (("--layers", "0-²"), "4-9, or all"),
        (("--layers", "1-0"), "4-9, or all"),
        (("--features", 0), "at least one feature"),
        (("--features", "nanx"), "at least one feature"),
        (("--context", 64), "positions; use --context"),
        (("--features", "many"), "8x"),
        (("--activation", "topk:2,topk:2"), "each once"),
        (("--activation", "gelu"), "choose relu, topk"),
        (("--kind", "decoder"), "choose transcoder"),
        (("--preset", "mine"), "choose default, paper"),
        (("--precision", "int8"), "choose bfloat16, float32"),
        (("--reads", "mlp_out"), "must read an MLP's input"),
        (("--tokens", 3), "at least one batch"),
        (("--hold-out", 1), "between 0 and 1"),
        (("--hold-out", "nan"), "between 0 and 1"),
        (("--context", 1), "at least 2"),
        (("--cache", tmp_path / "none"), "not a cache"),
    ):
        assert says in cli.refused(*command, *extra), extra
    assert "no such file" in cli.refused("transcoder", "train", "--model", model, "--text", "none.txt")
    assert "no such file" in cli.refused("transcoder", "evaluate", tmp_path / "t.safetensors", "--text", text)
    assert "hold" in cli.refused(*command[:1], "sweep", *command[2:], "--layers", 1, "--hold-out", 0)


def test_what_is_not_judged_or_not_kept_is_told(cli: Cli, model: Path, text: Path, tmp_path: Path):
    train = ("transcoder", "train", "--model", model, "--text", text, *SMALL, "--layers", "0,1")
    ran = cli(*train, "--kind", "transcoder,cross-layer", "--activation", "batch_topk:2", "--out", tmp_path / "run")
    assert ran.status == 0 and "–" in ran.out, ran  # too short a run for a feature to count as dead
    ran = cli("transcoder", "evaluate", tmp_path / "run", "--text", text, "--context", 8)
    assert ran.status == 0 and "layers0-1.cross-layer.batch_topk2" in ran.err
    file = tmp_path / "run" / "layer0.transcoder.batch_topk2.safetensors"
    ran = cli("transcoder", "convert", file, tmp_path / "layers.0.mlp", "--to", "saelens")
    assert ran.status == 0 and "back as jumprelu" in ran.err
    assert "autoencoder has no skip" in cli.refused(*train, "--kind", "autoencoder", "--skip", "--out", tmp_path / "x")


def test_files_cut_short_and_paths_mistyped(cli: Cli, text: Path, trained: Path, tmp_path: Path):
    whole = (trained / "layer0.transcoder.topk2.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "not a whole" in cli.refused("transcoder", "evaluate", tmp_path / "cut.safetensors", "--text", text)
    for source in ("runs/nowhere.safetensors", str(tmp_path / "nowhere")):
        assert "no such file" in cli.refused("transcoder", "evaluate", source, "--text", text)


def test_too_large_for_the_machine_is_one_line(cli: Cli, model: Path, text: Path, tmp_path: Path):
    ran = cli("transcoder", "train", "--model", model, "--text", text, *SMALL, "--features", "1000000000000",
              "--out", tmp_path / "out")  # fmt: skip
    assert ran.status == 1 and "out of memory" in ran.err and "bytes were asked for" in ran.err
    assert "Traceback" not in ran.err and len(ran.err.splitlines()) == 1


def test_features_by_their_weights_on_a_text_and_on_a_prompt(
    cli: Cli, text: Path, trained: Path, other_weights: Path, tmp_path: Path
):
    files = [trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1)]
    ran = cli("transcoder", "show", trained)
    assert ran.status == 0 and "layer1.transcoder.relu@0.01 1.mlp_in -> 1.mlp_out; 32 feat" in ran.out, ran
    ran = cli("transcoder", "show", *files, "m1.f3", "--heads", 2, "--most", 4)
    assert ran.status == 0 and "m0.f" in ran.out and "the longest of 4" in ran.out and "unembedding" in ran.out, ran
    found = json.loads(cli("transcoder", "show", *files, "m0.f3", "--json").out)
    assert found["name"] == "m0.f3" and len(found["heads"]) == 2 and found["readers"][0]["name"].startswith("m1.f")
    assert {each["name"] for each in found["raising"]} <= {"[UNK]", *WORDS}
    assert "was trained on weights" in cli("transcoder", "show", *files, "m0.f3", "--model", other_weights).err
    assert "two read layer 0" in cli.refused("transcoder", "show", trained, "m0.f3")
    assert "layer 7: there is no transcoder of it" in cli.refused("transcoder", "show", *files, "m7.f3")
    assert "give its transcoders" in cli.refused("transcoder", "show", "m7.f3")
    assert "give a feature" in cli.refused("transcoder", "show", trained, "--json")
    on_text = ("--text", text, "--context", 8, "--limit", 400)
    shown = cli("transcoder", "show", *files, "m1.f3", *on_text).out
    assert "m1.f3 on a text of" in shown and "⟦" in shown and "by TWERA" in shown and "embedding" not in shown
    both = cli("transcoder", "show", *files, "m1.f3", *on_text, "--weights").out
    assert both.endswith(shown) and "unembedding" in both
    assert "leave --text out" in cli.refused("transcoder", "show", *files, "m1.f3", "--json", *on_text)
    assert "no format that is known" in cli.refused("transcoder", "show", tmp_path)
    asked = ("--prompt", " ".join(WORDS[:4]))
    shown = cli("transcoder", "show", *files, *asked, "--most", 2).out
    assert "features of m0" in shown and "features of m1" in shown and all(repr(word) in shown for word in WORDS[:4])
    number = re.findall(r"\bf(\d+) \d", shown.split("features of m1")[1])[0]
    shown = cli("transcoder", "show", *files, f"m1.f{number}", *asked, *asked).out
    assert shown.count("⟦") >= 2 and f"m1.f{number} on prompts" in shown and "embedding" not in shown
    assert re.search(r"⟦\w+ = [\d.]+⟧", shown), "how strongly it is on"
    _several(cli, files, number, asked, on_text)
    assert "leave --prompt out" in cli.refused("transcoder", "show", *files, "m1.f3", "--json", *asked)
    assert "nothing is left" in cli.refused("transcoder", "show", *files, "m1.f3", "--no-weights")
    _paths(cli, files)


def _several(cli: Cli, files: list[Path], number: str, asked: tuple[str, ...], on_text: tuple[object, ...]):
    """Several features at once: the same as one after another."""
    names = (f"m1.f{number}", "m0.f3", "m1.f3")
    for options in ((*asked, *asked), (*on_text, "--most", 2, "--weights")):
        apart = [cli("transcoder", "show", *files, name, *options).out for name in names]
        together = cli("transcoder", "show", *files, *names, *options).out
        lines = "".join(apart).splitlines()
        assert sorted(together.splitlines()) == sorted(lines) and len(lines) > 3
    found = json.loads(cli("transcoder", "show", *files, *names, "--json").out)
    assert [each["name"] for each in found] == list(names)
    assert found[1] == json.loads(cli("transcoder", "show", *files, "m0.f3", "--json").out)
    for wrong, said in (("m0.f99", "feature 99"), ("m7.f3", "no transcoder of it")):
        assert said in cli.refused("transcoder", "show", *files, f"m1.f{number}", wrong, *asked)


def _paths(cli: Cli, files: list[Path]):
    given = ("--transcoders", files[0], "--transcoders", files[1])
    paths = ("transcoder", "paths", "Mary ran to the cat", *given)
    refusals = (cli(*paths, "--root", f"m1.f{i}@-1").err for i in range(3))
    root = next(each for each in refusals if "there: " in each).split("there: ")[1].split(",")[0].strip()
    ran = cli(*paths, "--root", f"{root}@-1", "--most", 3)
    assert ran.status == 0 and f"{root}@4 'cat'" in ran.out and "paths, 3 of" in ran.out, ran
    found = json.loads(cli(*paths, "--root", "mat", "--json", "--set", "branches=2", "--set", "steps=2").out)
    assert found["root"] == "mat" and len(found["paths"]) == 4 and found["settings"]["branches"] == 2
    first = found["paths"][0]["nodes"][-1]
    assert first["contribution"] == pytest.approx(first["activation"] * first["scale"] * first["connection"], rel=1e-5)
    assert "no setting 'n'" in cli.refused(*paths, "--root", "mat", "--set", "n=2")  # before the model is loaded


def test_a_set_is_not_tuned_into_its_own_folder(cli: Cli, text: Path, trained: Path, tmp_path: Path):
    files = [trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1)]
    before = {path: path.read_bytes() for path in trained.iterdir()}
    for sources, out in ((files, trained), ([trained], trained), (files, trained / ".." / trained.name)):
        said = cli.refused("transcoder", "tune", *sources, "--text", text, "--context", 8, "--out", out)
        assert "would be written over; choose another folder" in said
    assert {path: path.read_bytes() for path in trained.iterdir()} == before
    (tmp_path / "link").symlink_to(trained)
    assert "written over" in cli.refused("transcoder", "tune", *files, "--text", text, "--out", tmp_path / "link")


def test_a_converted_set_is_what_is_then_read(cli: Cli, trained: Path, tmp_path: Path):
    source, out = tmp_path / "set", tmp_path / "out"
    source.mkdir()
    for layer in (0, 1):
        file = trained / f"layer{layer}.transcoder.relu@0.01.safetensors"
        (source / file.name).write_bytes(file.read_bytes())
    convert = ("transcoder", "convert", source, out, "--to", "circuit-tracer")
    assert cli(*convert).status == 0
    (source / file.name).unlink()
    assert "is there already" in cli.refused(*convert)
    ran = cli(*convert, "--force")
    assert ran.status == 0 and "1 transcoder " in ran.out, ran
    assert len(cli("transcoder", "show", out).out.splitlines()) == 1
    assert "holds files of circuit-tracer" in cli.refused(*convert[:-1], "edgewise", "--force")


def test_a_folder_in_a_files_place_is_refused_before_the_work(cli: Cli, text: Path, trained: Path, tmp_path: Path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"m0.f3": "a"}')
    file = trained / "layer0.transcoder.topk2.safetensors"
    for command in (
        ("transcoder", "evaluate", file, "--text", text),
        ("transcoder", "score", file, rules, "--text", text),
        ("compare", "a.safetensors", "b.safetensors"),
        ("mib", "a.json"),
        ("tasks", "score"),
    ):
        assert f"{tmp_path}: is a folder; give a file" in cli.refused(*command, "--out", tmp_path)


def test_text_that_it_was_tuned_on_is_told(cli: Cli, text: Path, trained: Path, tmp_path: Path):
    files = [trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1)]
    shown = cli("transcoder", "show", files[0]).out
    assert "trained on 128 tokens" in shown
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[::-1])
    tune = ("transcoder", "tune", *files, "--text", other, "--context", 8, "--out", tmp_path / "tuned")
    assert cli(*tune, "--tokens", 32, "--set", "batch_tokens=16").status == 0
    judge = ("transcoder", "evaluate", tmp_path / "tuned" / "layer0.safetensors", "--no-ablations", "--context", 8)
    ran = cli(*judge, "--text", other, "--hold-out", 0.2, "--json")
    assert "was trained or tuned on another cut" in ran.err and not json.loads(ran.out)["conditions"]["held_out"], ran
    assert "another cut" not in cli(*judge, "--text", other).err
