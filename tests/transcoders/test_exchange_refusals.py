"""What a format cannot hold, and what is no such file, is refused in one line."""

import json

import pytest
import torch
from safetensors.torch import save_file

from edgewise import InputError
from edgewise.transcoders import Activation, Site
from edgewise.transcoders.formats import FORMATS, read, save, write
from edgewise.transcoders.formats._site_names import layer_of, site_of
from tests.transcoders.files import CASES, cross_layer, layers, made, signed, weights


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
        (lambda: layers(made("relu"), made("relu", reads="resid_mid")), "circuit-tracer", "layer 1 hook_resid_mid"),
        (lambda: layers(signed(4), signed(8)), "circuit-tracer", "topk:4, layer 1 .*topk:8"),
        (lambda: layers(made("relu"), signed(4)), "circuit-tracer", "no top-k, layer 1 .*topk:4"),
        (
            lambda: [*cross_layer("relu", 2)[:1], made("relu", layer=1, n_sites=2)],
            "circuit-tracer",
            "layer 1 must write",
        ),
        (
            lambda: [*cross_layer("jumprelu", 2)[:1], made("jumprelu", layer=1, reads="resid_mid")],
            "gemma-scope-2",
            "no name for layer 1 resid_mid",
        ),
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
        "layers.12": Site("resid_pre", 12),
        "embed": None,
        "mlp_layer_3": Site("mlp_in", 3),
        "model/mlp_out_layer3": Site("mlp_out", 3, before_post_norm=True),
        "resid_out_layer3": Site("resid_post", 3),
        "resid_post_layer_3": Site("resid_pre", 3),
        "gpt_neox.layers.3": Site("resid_pre", 3),
        "attn_layer_3": None,
        "mlp-layers.3.self_attn": None,
        "skip-transcoder-layers.3.mlp": Site("mlp_in", 3),
        "attn_out_layer_3": None,
        "blocks.2.attn.hook_z": None,
    }.items():
        assert site_of(name) == site, name
    for name in ("h.3.mlp", "mlp_layer_3"):
        assert site_of(name, output=True) == Site("mlp_out", 3, before_post_norm=True)
    assert site_of("layers.12", output=True) == Site("resid_post", 12)
    assert layer_of("layer_12_width_16k_l0_small") == 12 and layer_of("width_16k") is None


def test_every_format_has_a_case():
    assert {name for name, _, _ in CASES.values()} == set(FORMATS)


def test_a_layer_is_a_number():
    for key in ("².mlp_in", "x.mlp_in", ".mlp_in"):
        with pytest.raises(InputError, match="write LAYER.KIND"):
            Site.parse(key)
    with pytest.raises(InputError, match="topk"):
        Activation.parse("topk:²")
