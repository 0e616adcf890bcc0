"""Everybody's files: what is written reads back to the same bits, and files of each tool's exact layout mean what the
tool says.
"""

import json
import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise import InputError
from edgewise.transcoders import Activation, Site, Transcoder
from edgewise.transcoders.formats import read, round_trip_differences, write
from tests.transcoders.files import (
    CASES,
    D,
    F,
    N,
    X,
    as_authors,
    cross_layer,
    layers,
    made,
    normalized,
    same,
    tied,
    weights,
)
from tests.transcoders.reference import draw


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_reads_back_to_the_same_bits(tmp_path, case: str):
    name, place, make = CASES[case]
    transcoders = make()
    write(transcoders, tmp_path / place, name)
    again = read(tmp_path / place)  # the format is found out
    assert len(again) == len(transcoders) and round_trip_differences(transcoders, tmp_path / place, name) == []
    for before, after in zip(transcoders, again, strict=True):
        same(before, after)
    write(again, tmp_path / "again" / place, name)
    files = sorted(path for path in (tmp_path / place).rglob("*") if path.is_file()) or [tmp_path / place]
    for file in files:
        if file.suffix == ".safetensors":
            one, other = load_file(file), load_file(tmp_path / "again" / file.relative_to(tmp_path))
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_are_kept(tmp_path, dtype: torch.dtype):
    transcoder = made("relu").to(dtype)
    for name, place in (("edgewise", "t.safetensors"), ("saelens", "t"), ("circuit-tracer", "layer_3.safetensors")):
        write(transcoder, tmp_path / name / place, name)
        same(transcoder, read(tmp_path / name / place)[0])


@pytest.mark.parametrize("case", ["saelens", "circuit-tracer", "sparsify", "gemma-scope-2"])
def test_an_input_bias_is_folded_where_a_format_has_none(tmp_path, case: str):
    kind = {"sparsify": "topk:4", "gemma-scope-2": "jumprelu"}.get(case, "relu")
    transcoder = made(kind, input_bias=True, layer=0)
    place = tmp_path / "layers.0.mlp"
    write(transcoder, place, case)
    x = draw(N, D, dtype=torch.float32)
    assert (read(place)[0](x) - transcoder(x)).abs().max() < 2e-5
    assert ["folded" in note for note in round_trip_differences([transcoder], place, case)] == [True]


# ------------------------------------------------------------------------- files as others lay them out, by their words


def close(transcoder: Transcoder, expected: Tensor) -> None:
    torch.testing.assert_close(transcoder(X).detach(), expected, rtol=1e-5, atol=1e-5)


def test_the_authors_file(tmp_path, monkeypatch):
    """Written with a class of theirs that is gone when the file is read."""
    module = ModuleType("sae_training.config")

    class LanguageModelSAERunnerConfig:
        pass

    LanguageModelSAERunnerConfig.__module__ = "sae_training.config"
    LanguageModelSAERunnerConfig.__qualname__ = "LanguageModelSAERunnerConfig"
    module.LanguageModelSAERunnerConfig = LanguageModelSAERunnerConfig  # pyright: ignore[reportAttributeAccessIssue]
    settings = LanguageModelSAERunnerConfig()
    names = {"hook_point": "blocks.8.ln2.hook_normalized", "out_hook_point": "blocks.8.hook_mlp_out"}
    values = {"model_name": "gpt2-small", "l1_coefficient": 1.4e-4, "device": torch.device("cuda"), **names}
    vars(settings).update(values | {"dtype": torch.float32, "is_transcoder": True})
    state = weights() | {"b_dec_out": draw(D, seed=7, dtype=torch.float32)}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sae_training", ModuleType("sae_training"))
        patch.setitem(sys.modules, "sae_training.config", module)
        torch.save({"cfg": settings, "state_dict": OrderedDict(state)}, tmp_path / "t.pt")
    (transcoder,) = read(tmp_path / "t.pt")
    assert transcoder.spec.reads == Site("mlp_normalized", 8)
    assert transcoder.spec.writes == (Site("mlp_out", 8, centred=True),)
    assert transcoder.provenance["settings"]["model_name"] == "gpt2-small"
    z = ((X - state["b_dec"]) @ state["W_enc"] + state["b_enc"]).relu()
    close(transcoder, z @ state["W_dec"] + state["b_dec_out"])
    close(transcoder.folded(), z @ state["W_dec"] + state["b_dec_out"])


class _Evil:
    def __reduce__(self):
        return print, ("pwned",)


def test_a_pickle_with_anything_else_in_it_is_not_run(tmp_path, capsys):
    torch.save({"cfg": _Evil(), "state_dict": {}}, tmp_path / "t.pt")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "t.pt")
    (tmp_path / "u.pt").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InputError):
        read(tmp_path / "u.pt")
    assert "pwned" not in capsys.readouterr().out


@pytest.mark.parametrize("tie", [True, False])
def test_saelens_autoencoder(tmp_path, tie: bool):
    state = weights()
    save_file(state, tmp_path / "sae_weights.safetensors")
    config = {
        "architecture": "standard",
        "apply_b_dec_to_input": tie,
        "metadata": {"hook_name": "blocks.4.hook_mlp_out"},
    }
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    (transcoder,) = read(tmp_path)
    assert transcoder.spec.is_autoencoder and transcoder.spec.reads == Site("mlp_out", 4)
    z = ((X - state["b_dec"] * tie) @ state["W_enc"] + state["b_enc"]).relu()
    close(transcoder, z @ state["W_dec"] + state["b_dec"])


def test_sparsify_transcoder(tmp_path):
    state = weights()
    skip = draw(D, D, seed=8, dtype=torch.float32)
    stored = {"encoder.weight": state["W_enc"].T, "encoder.bias": state["b_enc"], "W_skip": skip}
    stored |= {name: state[name] for name in ("W_dec", "b_dec")}
    folder = tmp_path / "layers.10.mlp"
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": 5, "transcode": True, "skip_connection": True, "d_in": D}))
    for place in (folder, tmp_path):  # the folder itself, or the run that it is in
        (transcoder,) = read(place)
        assert transcoder.spec.reads == Site("mlp_in", 10) and transcoder.activation == Activation("topk", 5)
        pre = (X @ state["W_enc"] + state["b_enc"]).relu()
        top = pre.topk(5)
        z = torch.zeros_like(pre).scatter(1, top.indices, top.values)
        close(transcoder, z @ state["W_dec"] + state["b_dec"] + X @ skip.T)


@pytest.mark.parametrize("transposed", [False, True])
def test_circuit_tracer_file_of_either_orientation(tmp_path, transposed: bool):
    state = weights()
    decoder = state["W_dec"].T if transposed else state["W_dec"]
    save_file(
        {
            "W_enc": state["W_enc"].T.contiguous(),
            "W_dec": decoder.contiguous(),
            **{n: state[n] for n in ("b_enc", "b_dec")},
        },
        tmp_path / "layer_0.safetensors",
    )
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"model_kind": "transcoder_set", "feature_input_hook": "hook_resid_mid"})
    )
    (transcoder,) = read(tmp_path)
    assert transcoder.spec.reads == Site("resid_mid", 0)
    close(transcoder, (X @ state["W_enc"] + state["b_enc"]).relu() @ state["W_dec"] + state["b_dec"])


def test_gemma_scope_1_and_2(tmp_path):
    state = weights() | {"threshold": torch.full((F,), 0.4)}
    folder = tmp_path / "layer_5" / "width_16k" / "average_l0_80"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in state.items()})  # pyright: ignore[reportArgumentType]
    pre = X @ state["W_enc"] + state["b_enc"]
    expected = torch.where(pre > 0.4, pre, 0.0) @ state["W_dec"] + state["b_dec"]
    (transcoder,) = read(folder)
    assert transcoder.spec.reads == Site("mlp_normalized", 5)
    close(transcoder, expected)
    skip = draw(D, D, seed=8, dtype=torch.float32)
    folder = tmp_path / "layer_7_width_16k_l0_small_affine"
    folder.mkdir()
    renamed = {name.replace("W", "w"): tensor for name, tensor in state.items()}
    save_file(renamed | {"affine_skip_connection": skip}, folder / "params.safetensors")
    (transcoder,) = read(folder)
    assert transcoder.spec.reads == Site("mlp_in", 7)
    close(transcoder, expected + X @ skip)


def test_a_dictionary_learning_training_backup(tmp_path):
    state = weights()
    theirs = {"bias": state["b_dec"], "encoder.weight": state["W_enc"].T, "encoder.bias": state["b_enc"]}
    theirs["decoder.weight"] = state["W_dec"].T
    torch.save({"step": 7, "ae": theirs}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(
        json.dumps({"trainer": {"dict_class": "AutoEncoder", "submodule_name": "layers.2.mlp"}})
    )
    (transcoder,) = read(tmp_path)
    z = ((X - state["b_dec"]) @ state["W_enc"] + state["b_enc"]).relu()
    close(transcoder, z @ state["W_dec"] + state["b_dec"])


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("circuit-tracer set", ["t.layer0", "t.layer1", "t.layer2"]),
        ("gemma-scope-2 cross-layer", ["clt.layer0", "clt.layer1", "clt.layer2"]),
        ("sparsify several", ["t.layer2", "t.layer10"]),
        ("edgewise set", ["layer0", "layer1", "layer2"]),
        ("sparsify", ["layers.3"]),
    ],
)
def test_each_of_a_set_has_a_name_of_its_own(tmp_path, case: str, names: list[str]):
    name, place, make = CASES[case]
    write(make(), tmp_path / place, name)
    assert [each.name for each in read(tmp_path / place)] == names


def per_layer(kind: str, n: int) -> list[Transcoder]:
    return layers(*(made(kind, seed=9 + i) for i in range(n)))


@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        ("circuit-tracer", lambda: cross_layer("relu"), lambda: per_layer("relu", 2), "W_dec_0.safetensors"),
        ("circuit-tracer", lambda: per_layer("relu", 3), lambda: per_layer("relu", 2), "layer_2.safetensors"),
        ("circuit-tracer", lambda: per_layer("relu", 2), lambda: cross_layer("relu"), "layer_0.safetensors"),
        ("gemma-scope-2", lambda: cross_layer("jumprelu"), lambda: cross_layer("jumprelu", 2), "params_layer_2.saf"),
        ("gemma-scope-2", lambda: made("jumprelu"), lambda: cross_layer("jumprelu", 2), "params.safetensors"),
        ("sparsify", lambda: per_layer("topk:4", 3), lambda: per_layer("topk:4", 2), "layers.2.mlp/sae.safetensors"),
        ("sparsify", lambda: made("topk:4"), lambda: per_layer("topk:4", 2), "layers.3.mlp/sae.safetensors"),
        ("edgewise", lambda: per_layer("relu", 3), lambda: per_layer("topk:4", 2), "layer2.safetensors"),
    ],
)
def test_what_is_written_over_another_set_is_what_is_read(tmp_path, name: str, old, new, stale: str):
    write(old(), tmp_path / "t", name)
    (tmp_path / "t" / "model.safetensors").write_bytes(b"somebody's own, no transcoder")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"t: holds {stale}.*, of another set"):
        write(new(), tmp_path / "t", name)
    with pytest.raises(InputError):
        write(made("relu", autoencoder=True, skip=True), tmp_path / "t", name, force=name != "edgewise")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write(new(), tmp_path / "t", name, force=True)
    assert (tmp_path / "t" / "model.safetensors").read_bytes().startswith(b"somebody")
    (tmp_path / "t" / "model.safetensors").unlink()
    for wanted, found in zip(new(), read(tmp_path / "t"), strict=True):
        same(wanted, found)
    write(new(), tmp_path / "t", name)  # over itself


def test_what_was_trained_is_not_removed(tmp_path):
    trained = made("relu", layer=2)
    trained.provenance = {"method": {"method": "transcoders", "steps": 12}}
    write(trained, tmp_path / "layer2.transcoder.relu.safetensors")
    for force in (False, True):
        with pytest.raises(InputError, match=r"holds layer2\.transcoder\.relu\.safetensors, which was trained"):
            write(per_layer("relu", 2), tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["layer2.transcoder.relu.safetensors"]


def test_a_folder_of_another_format_is_not_written_to(tmp_path):
    write(made("relu"), tmp_path, "saelens")
    for force in (False, True):
        with pytest.raises(InputError, match="holds files of saelens, and of two formats one would be read"):
            write(per_layer("relu", 2), tmp_path, "circuit-tracer", force=force)
    same(read(tmp_path)[0], made("relu"))


@pytest.mark.parametrize("case", CASES)
def test_records_that_are_texts_are_no_hindrance(tmp_path, case: str):
    name, place, make = CASES[case]
    transcoders = make()
    for each in transcoders:
        each.provenance = dict.fromkeys(("model", "method", "metadata", "settings"), "mine")
    write(transcoders, tmp_path / place, name)
    assert len(read(tmp_path / place)) == len(transcoders)


@pytest.mark.parametrize("autoencoder", [False, True])
@pytest.mark.parametrize("name", ["layer3", "layers.3", "layers.8.mlp", "layers.3.mlp", "mine"])
def test_sparsify_is_written_where_it_reads_back(tmp_path, name: str, autoencoder: bool):
    transcoder = made("topk:4", autoencoder=autoencoder)  # of layer 3
    transcoder = tied(transcoder) if autoencoder else transcoder
    write(transcoder, tmp_path / name, "sparsify")
    same(transcoder, read(tmp_path / name)[0])
    assert round_trip_differences([transcoder], tmp_path / name, "sparsify") == []
    assert (tmp_path / name / "sae.safetensors").is_file() == (name == "layers.3.mlp")


@pytest.mark.parametrize(
    ("format", "kind", "reads", "name"),
    [
        ("gemma-scope", "jumprelu", "mlp_normalized", "layer_5.npz"),
        ("gemma-scope", "jumprelu", "mlp_normalized", "layer_5/width_1k"),
        ("gemma-scope-2", "jumprelu", "mlp_in", "layer_5_width_1k"),
        ("circuit-tracer", "relu", "mlp_in", "layer_5.safetensors"),
    ],
)
def test_what_its_name_would_give_another_layer_is_not_written(tmp_path, format: str, kind: str, reads: str, name: str):
    with pytest.raises(InputError, match="by its name of layer 5, and the transcoder is of layer 3; name it so"):
        write(made(kind, reads=reads), tmp_path / name, format)
    assert not list(tmp_path.rglob("*.*"))
    transcoder = made(kind, reads=reads, layer=5)
    write(transcoder, tmp_path / name, format)
    same(transcoder, read(tmp_path / name)[0])


def test_what_no_name_says_is_told(tmp_path):
    transcoder = made("jumprelu", reads="mlp_normalized")
    write(transcoder, tmp_path / "mine", "gemma-scope")
    (note,) = round_trip_differences([transcoder], tmp_path / "mine", "gemma-scope")
    assert "does not say of which layer it is; name the sites" in note
    same(transcoder, read(tmp_path / "mine", reads=transcoder.spec.reads, writes=transcoder.spec.writes[0])[0])
    with pytest.raises(InputError, match="the authors' files end in .pt"):
        write(as_authors(normalized()), tmp_path / "mine.safetensors", "authors")
