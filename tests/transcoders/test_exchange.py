"""Everybody's files: what is written reads back to the same bits, files of each tool's exact layout mean what the tool
says, and what is no such file is refused in one line.
"""

import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise import InputError
from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec
from edgewise.transcoders.formats import FORMATS, read, round_trip_differences, save, write
from edgewise.transcoders.formats._site_names import layer_of, site_of
from tests.transcoders.reference import draw, random_transcoder

D, F, N = 16, 64, 30


def made(activation: str = "topk:4", **changes) -> Transcoder:
    sizes = {"d_in": D, "d_out": D, "n_features": F, "dtype": torch.float32, "layer": 3}
    return random_transcoder(activation, **(sizes | changes))


def tied(transcoder: Transcoder) -> Transcoder:
    """An autoencoder that takes off its input what it adds to its output."""
    return transcoder.folded(transcoder.b_dec.detach())


def signed() -> Transcoder:
    base = made("topk:4")
    spec = TranscoderSpec(**{**base.spec.__dict__, "activation": Activation("topk", 4, rectified=False)})
    other = Transcoder(spec)
    other.load_state_dict(base.state_dict())
    return other


def cross_layer(activation: str, n_layers: int = 3) -> list[Transcoder]:
    return [made(activation, layer=i, n_sites=n_layers - i, seed=i) for i in range(n_layers)]


def normalized(**changes) -> Transcoder:
    return made("relu", reads="mlp_normalized", input_bias=True, **changes)


def as_authors(transcoder: Transcoder) -> Transcoder:
    """The same, with the centred output that the authors' files imply."""
    spec = {**transcoder.spec.__dict__, "writes": (Site("mlp_out", 3, centred=True),)}
    spec["reads"] = spec["writes"][0] if transcoder.spec.is_autoencoder else transcoder.spec.reads
    other = Transcoder(TranscoderSpec(**spec))
    other.load_state_dict(transcoder.state_dict())
    return other


CASES: dict[str, tuple[str, str, Callable[[], list[Transcoder]]]] = {
    **{
        f"edgewise {kind}": ("edgewise", "t.safetensors", lambda kind=kind: [made(kind, skip=True, input_bias=True)])
        for kind in ("relu", "topk:4", "batch_topk:4", "jumprelu")
    },
    "edgewise set": ("edgewise", "folder", lambda: cross_layer("topk:4")),
    "authors": ("authors", "t.pt", lambda: [as_authors(normalized())]),
    "authors sae": ("authors", "t.pt", lambda: [as_authors(tied(made("relu", autoencoder=True)))]),
    "saelens": ("saelens", "t", lambda: [made("relu")]),
    "saelens skip": ("saelens", "t", lambda: [made("relu", skip=True, reads="resid_mid")]),
    "saelens jumprelu": ("saelens", "t", lambda: [made("jumprelu")]),
    "saelens jumprelu skip": ("saelens", "t", lambda: [made("jumprelu", skip=True, reads="mlp_normalized")]),
    "saelens sae": ("saelens", "t", lambda: [tied(made("relu", autoencoder=True))]),
    "saelens sae topk": ("saelens", "t", lambda: [made("topk:4", autoencoder=True)]),
    "saelens sae jumprelu": ("saelens", "t", lambda: [made("jumprelu", autoencoder=True)]),
    "sparsify": ("sparsify", "layers.3.mlp", lambda: [made("topk:4")]),
    "sparsify skip": ("sparsify", "layers.3.mlp", lambda: [made("topk:4", skip=True)]),
    "sparsify sae": ("sparsify", "layers.3.mlp", lambda: [tied(made("topk:4", autoencoder=True))]),
    "sparsify several": ("sparsify", "t", lambda: [made("topk:4", layer=layer) for layer in (2, 10)]),
    "circuit-tracer file": ("circuit-tracer", "layer_3.safetensors", lambda: [made("relu", skip=True)]),
    "circuit-tracer set": (
        "circuit-tracer",
        "t",
        lambda: [made("jumprelu", layer=layer, skip=True, reads="hook_normalized") for layer in range(3)],
    ),
    "circuit-tracer topk": ("circuit-tracer", "t", lambda: [at_layer_0(signed())]),
    "circuit-tracer cross-layer": ("circuit-tracer", "t", lambda: cross_layer("relu")),
    "circuit-tracer cross-layer jumprelu": ("circuit-tracer", "t", lambda: cross_layer("jumprelu")),
    "gemma-scope": ("gemma-scope", "layer_3.npz", lambda: [made("jumprelu", reads="mlp_normalized")]),
    "gemma-scope-2": ("gemma-scope-2", "layer_3_width_1k", lambda: [made("jumprelu", skip=True)]),
    "gemma-scope-2 cross-layer": ("gemma-scope-2", "clt", lambda: cross_layer("jumprelu")),
    "dictionary-learning": ("dictionary-learning", "t", lambda: [tied(made("relu", autoencoder=True))]),
    "dictionary-learning topk": ("dictionary-learning", "t", lambda: [tied(made("topk:4", autoencoder=True))]),
    "dictionary-learning batch_topk": (
        "dictionary-learning",
        "t",
        lambda: [tied(made("batch_topk:4", autoencoder=True))],
    ),
    "dictionary-learning jumprelu": ("dictionary-learning", "t", lambda: [made("jumprelu", autoencoder=True)]),
}


def at_layer_0(transcoder: Transcoder) -> Transcoder:
    spec = {**transcoder.spec.__dict__, "reads": Site("mlp_in", 0), "writes": (Site("mlp_out", 0),)}
    other = Transcoder(TranscoderSpec(**spec))
    other.load_state_dict(transcoder.state_dict())
    return other


def same(a: Transcoder, b: Transcoder) -> None:
    assert a.spec == b.spec
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


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


def weights(n_features: int = F, d: int = D) -> dict[str, Tensor]:
    """Tensors in the row convention: encoder `[d, F]`, decoder `[F, d]`."""
    shapes = {"W_enc": (d, n_features), "W_dec": (n_features, d), "b_enc": (n_features,), "b_dec": (d,)}
    return {name: draw(*shape, seed=i, dtype=torch.float32) * 0.3 for i, (name, shape) in enumerate(shapes.items())}


X = draw(N, D, seed=9, dtype=torch.float32)


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


# ------------------------------------------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (lambda: made("topk:4"), "authors", "no topk:4 activation"),
        (lambda: made("relu", skip=True), "authors", "no skip connection"),
        (lambda: made("topk:4"), "saelens", "no topk:4 activation"),
        (lambda: made("relu"), "sparsify", "no relu activation"),
        (lambda: made("topk:4", reads="resid_mid"), "sparsify", "reads mlp_in"),
        (lambda: made("topk:4"), "circuit-tracer", "no topk:4 activation"),
        (lambda: made("relu", autoencoder=True), "circuit-tracer", "no autoencoder"),
        (lambda: made("relu"), "gemma-scope", "no relu activation"),
        (lambda: made("jumprelu", skip=True), "gemma-scope", "no skip connection"),
        (lambda: made("relu"), "dictionary-learning", "no transcoder"),
        (lambda: cross_layer("relu"), "saelens", "one at a time"),
        (lambda: cross_layer("relu")[0], "authors", "no cross-layer decoder"),
        (lambda: [made("relu", layer=2), made("relu", layer=4)], "circuit-tracer", "every layer from 0 on"),
        (lambda: made("relu"), "safetensors", "choose edgewise"),
        (list, "edgewise", "at least one"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, make, name: str, says: str):
    with pytest.raises(InputError, match=says):
        write(make(), tmp_path / "x", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_a_truncated_file_is_one_clear_line(tmp_path, case: str):
    name, place, make = CASES[case]
    write(make(), tmp_path / place, name)
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".pt", ".npz")]
    file = max(files, key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError) as error:
        read(tmp_path / place, name)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("case", ["edgewise relu", "saelens", "sparsify", "circuit-tracer file", "gemma-scope-2"])
def test_nan_in_the_weights_is_one_clear_line(tmp_path, case: str):
    name, place, make = CASES[case]
    transcoders = make()
    with torch.no_grad():
        transcoders[0].W_dec[3, 2] = torch.nan
    write(transcoders, tmp_path / place, name)
    with pytest.raises(InputError, match="W_dec holds NaN"):
        read(tmp_path / place)


def test_a_wrong_shape_or_a_missing_tensor_is_one_clear_line(tmp_path):
    state = weights()
    save_file(state | {"W_dec": state["W_dec"][:, :-1].contiguous()}, tmp_path / "sae_weights.safetensors")
    hooks = {"hook_name": "blocks.4.ln2.hook_normalized", "hook_name_out": "blocks.4.hook_mlp_out"}
    config = {"architecture": "transcoder", "metadata": hooks}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"W_dec is \[64, 15\], wanted \[64, 16\]"):
        read(tmp_path)
    del state["b_enc"]
    save_file(state, tmp_path / "sae_weights.safetensors")
    with pytest.raises(InputError, match="holds no b_enc"):
        read(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"architecture": "gated"}))
    with pytest.raises(InputError, match="'gated' is not read"):
        read(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "layer_norm"}))
    with pytest.raises(InputError, match="normalize_activations is 'layer_norm'"):
        read(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        read(tmp_path)


def test_what_is_not_there_or_of_no_format_is_refused(tmp_path):
    for source, says in ((tmp_path / "no", "no such file"), (tmp_path, "of no format"), ("nowhere", "no such file")):
        with pytest.raises(InputError, match=says):
            read(source)
    with pytest.raises(InputError, match="neither here nor on the hub"):
        read("nobody/nothing/layer_3@main")
    with pytest.raises(InputError, match="choose edgewise"):
        read(tmp_path, "sae")
    save(made(), tmp_path / "t.safetensors")
    write(made("relu"), tmp_path / "x.safetensors", "circuit-tracer")
    with pytest.raises(InputError, match="does not say of which layer"):
        read(tmp_path / "x.safetensors")
    (given,) = read(tmp_path / "x.safetensors", reads=Site("resid_mid", 9), writes=Site("mlp_out", 9))
    assert given.spec.reads.layer == 9


def test_names_of_sites():
    for name, site in {
        "blocks.11.ln2.hook_normalized": Site("hook_normalized", 11),
        "blocks.0.hook_resid_mid": Site("resid_mid", 0),
        "model.layers.3.mlp": Site("mlp_in", 3),
        "h.3.mlp": Site("mlp_in", 3),
        "layers.12": Site("resid_post", 12),
        "embed": None,
        "blocks.2.attn.hook_z": None,
    }.items():
        assert site_of(name) == site, name
    assert site_of("h.3.mlp", output=True) == Site("mlp_out", 3)
    assert layer_of("layer_12_width_16k_l0_small") == 12 and layer_of("width_16k") is None


def test_every_format_has_a_case():
    assert {name for name, _, _ in CASES.values()} == set(FORMATS)
