"""Which vector a file's features read and write: what the file says, or nothing; never a guess that may be wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from edgewise import InputError
from edgewise.transcoders import Site, Transcoder
from edgewise.transcoders.formats import read, write
from tests.transcoders.files import D, F, N, as_authors, cross_layer, layers, made, normalized, same, signed, weights
from tests.transcoders.reference import draw


def rows(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As sparsify names and turns them."""
    names = {"encoder.weight": state["W_enc"].T, "encoder.bias": state["b_enc"]}
    return {name: x.contiguous() for name, x in (names | {n: state[n] for n in ("W_dec", "b_dec")}).items()}


def sparsify(folder, module: str, transcode: bool = True):
    place = folder / module
    place.mkdir(parents=True)
    save_file(rows(weights()), place / "sae.safetensors")
    (place / "cfg.json").write_text(json.dumps({"k": 5, "transcode": transcode, "d_in": D}))
    return place


def saelens(folder, **config):
    folder.mkdir(parents=True)
    save_file({name: x.contiguous() for name, x in weights().items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard"} | config))
    return folder


def gemma_scope(folder, config: dict | None = None):
    folder.mkdir(parents=True)
    state = weights() | {"threshold": torch.full((F,), 0.4)}
    if config is None:
        np.savez(folder / "params.npz", **{name: x.numpy() for name, x in state.items()})  # pyright: ignore[reportArgumentType]
        return folder
    save_file({name.replace("W", "w"): x.contiguous() for name, x in state.items()}, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


UNKNOWN = {
    "sparsify attention": lambda at: sparsify(at, "layers.3.self_attn"),
    "sparsify attention, one seed of several": lambda at: sparsify(at, "layers.3.self_attn/seed0"),
    "sparsify inside an MLP": lambda at: sparsify(at, "layers.3.mlp.down_proj"),
    "sparsify autoencoder of nothing named": lambda at: sparsify(at, "run", transcode=False),
    "saelens attention": lambda at: saelens(at / "blocks.8.hook_attn_out", hook_name="blocks.8.hook_attn_out"),
    "saelens of nothing named": lambda at: saelens(at / "layer_3"),
    "gemma scope residual": lambda at: gemma_scope(at / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k"),
    "gemma scope 2 residual": lambda at: gemma_scope(
        at / "layer_20_width_16k", {"hf_hook_point_in": "model.layers.20.output", "architecture": "jump_relu"}
    ),
    "gemma scope 2 attention": lambda at: gemma_scope(
        at / "gemma-scope-2-1b-pt" / "attn_out" / "layer_20_width_16k", {"architecture": "jump_relu"}
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_of_an_mlp_is_refused_until_its_sites_are_named(tmp_path, case: str):
    place = UNKNOWN[case](tmp_path)
    with pytest.raises(InputError, match="name the sites") as caught:
        read(place)
    assert "\n" not in str(caught.value)
    (named,) = read(place, reads=Site("resid_pre", 5), writes=Site("resid_pre", 5))
    assert named.spec.is_autoencoder and named.spec.reads == Site("resid_pre", 5)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}, "activation_fn_str is 'topk'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ({"hook_head_index": 3}, "hook_head_index is 3; it is of one head alone"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
    ],
)
def test_what_an_old_saelens_did_otherwise_is_refused(tmp_path, config: dict, says: str):
    with pytest.raises(InputError, match=says):
        read(saelens(tmp_path / "x", hook_name="blocks.3.hook_resid_pre", **config))


def test_the_innermost_folder_tells_the_layer(tmp_path):
    for outer in ("h2", "exp_layer5"):
        folder = gemma_scope(tmp_path / outer / "transcoders" / "layer_20" / "average_l0_71")
        assert read(folder)[0].spec.reads == Site("mlp_normalized", 20)
    hooks = {"in": "pre_feedforward_layernorm.output", "out": "post_feedforward_layernorm.output"}
    config = {f"hf_hook_point_{way}": f"model.layers.7.{hook}" for way, hook in hooks.items()}
    for folder in ("layer_7_width_16k", "layer_9_of_others"):  # the file says it
        (found,) = read(gemma_scope(tmp_path / folder, config))
        assert (found.spec.reads, found.spec.writes) == (Site("mlp_in", 7), (Site("mlp_out", 7),))


def test_one_seed_of_several_is_of_its_folders_module(tmp_path):
    (found,) = read(sparsify(tmp_path, "layers.3.mlp/seed1"))
    assert (found.spec.reads, found.spec.writes) == (Site("mlp_in", 3), (Site("mlp_out", 3, before_post_norm=True),))


@pytest.mark.parametrize("module", ["layers.3.mlp", "layers.3.mlp/seed1"])
def test_tokens_that_a_training_left_out_are_asked_for(tmp_path, module: str):
    place = sparsify(tmp_path, module)
    (tmp_path / "config.json").write_text(json.dumps({"exclude_tokens": []}))
    assert not read(place)[0].spec.exclude_special
    (tmp_path / "config.json").write_text(json.dumps({"exclude_tokens": [0, 7]}))
    with pytest.raises(InputError, match=r"trained without tokens of its own, \[0, 7\]; give exclude_special"):
        read(place)
    assert read(place, exclude_special=True)[0].spec.exclude_special


@pytest.mark.parametrize(
    ("name", "site"), [("mlp_layer_5", Site("mlp_out", 5, before_post_norm=True)), ("attn_layer_5", None)]
)
def test_a_dictionary_of_a_named_module_is_of_that(tmp_path, name: str, site: Site | None):
    write(made("relu", autoencoder=True), tmp_path, "dictionary-learning")
    config = json.loads((tmp_path / "config.json").read_text())
    config["trainer"]["submodule_name"] = name
    (tmp_path / "config.json").write_text(json.dumps(config))
    if site is None:
        with pytest.raises(InputError, match="'attn_layer_5', which is no site that is known here"):
            read(tmp_path)
    else:
        assert read(tmp_path)[0].spec.reads == site


@pytest.mark.parametrize(
    ("make", "name", "place"),
    [
        (lambda: made("jumprelu"), "gemma-scope", "x.npz"),
        (lambda: made("jumprelu", reads="resid_mid"), "gemma-scope-2", "x"),
        (lambda: made("relu", reads="resid_mid"), "circuit-tracer", "layer_3.safetensors"),
        (lambda: made("relu", reads="hook_normalized"), "authors", "x.pt"),
        (lambda: as_authors(made("relu", layer=3)), "circuit-tracer", "layer_3.safetensors"),
        (normalized, "authors", "x.pt"),
        (lambda: made("relu", reads="mlp_normalized", layer=3), "circuit-tracer", "x"),
    ],
)
def test_a_site_that_a_format_would_give_back_as_another_is_refused(tmp_path, make, name: str, place: str):
    with pytest.raises(InputError, match=f"{name}: the format has no name for layer 3"):
        write(make(), tmp_path / place, name)
    assert not list(tmp_path.iterdir())


def test_a_site_given_in_place_of_the_file_s_is_written_again(tmp_path):
    write(made("relu"), tmp_path / "x", "saelens")
    reads, writes = Site("resid_mid", 9), Site("mlp_out", 9)
    write(read(tmp_path / "x", reads=reads, writes=writes), tmp_path / "y", "saelens")
    (again,) = read(tmp_path / "y")
    assert again.spec.reads == reads and again.spec.writes == (writes,)


SETS: dict[str, tuple[Callable[[], list[Transcoder]], str]] = {
    "circuit-tracer": (lambda: layers(made("relu"), made("relu"), made("relu")), "circuit-tracer"),
    "circuit-tracer cross-layer": (lambda: cross_layer("relu"), "circuit-tracer"),
    "gemma-scope-2 cross-layer": (lambda: cross_layer("jumprelu"), "gemma-scope-2"),
    "sparsify": (lambda: layers(made(), made(), made()), "sparsify"),
}


@pytest.mark.parametrize("case", SETS)
@pytest.mark.parametrize("named", [Site("hook_normalized", 0), Site("resid_mid", 7, centred=True)])
def test_of_a_set_the_kind_of_a_named_site_counts_and_each_keeps_its_layer(tmp_path, case: str, named: Site):
    make, name = SETS[case]
    write(make(), tmp_path / "x", name)
    writes = Site("mlp_out", 0, before_post_norm=True)
    for written in (None, writes):
        found = read(tmp_path / "x", reads=named, writes=written)
        assert [each.spec.reads for each in found] == [replace(named, layer=layer) for layer in range(3)]
        for before, after in zip(make(), found, strict=True):
            assert [site.layer for site in after.spec.writes] == [site.layer for site in before.spec.writes]
            assert all(site.before_post_norm for site in after.spec.writes) or written is None


def test_of_a_set_of_ours_too(tmp_path):
    write(layers(made("relu", reads="mlp_normalized"), made("relu", reads="mlp_normalized")), tmp_path / "x")
    hook = Site("hook_normalized", 0)
    assert [each.spec.reads for each in read(tmp_path / "x", reads=hook)] == [hook, replace(hook, layer=1)]
    with pytest.raises(InputError, match="it reads layer 0 mlp_normalized and says so; layer 0 resid_mid was named"):
        read(tmp_path / "x", reads=Site("resid_mid", 1))


def test_one_of_several_that_does_not_say_its_layer_is_refused(tmp_path):
    for name in ("one", "two"):
        sparsify(tmp_path, name)
    with pytest.raises(InputError, match="one: one of 2, and its name does not say of which layer"):
        read(tmp_path, reads=Site("mlp_in", 3), writes=Site("mlp_out", 3))
    assert read(tmp_path / "one", reads=Site("mlp_in", 3), writes=Site("mlp_out", 3))[0].spec.reads.layer == 3


def test_a_file_of_ours_may_be_named_as_the_hook_that_its_site_is_in_its_model(tmp_path):
    write(made("relu", reads="mlp_normalized", layer=0), tmp_path / "layer0.safetensors")
    hook = Site("hook_normalized", 0)
    write(read(tmp_path / "layer0.safetensors", reads=hook), tmp_path / "set", "circuit-tracer")
    assert read(tmp_path / "set")[0].spec.reads == hook
    with pytest.raises(InputError, match="it reads layer 0 mlp_normalized and says so"):
        read(tmp_path / "layer0.safetensors", reads=Site("hook_normalized", 1))


@pytest.mark.parametrize("name", ["edgewise", "sparsify"])
def test_two_of_one_layer_do_not_overwrite_each_other(tmp_path, name: str):
    with pytest.raises(InputError, match="two are of layer 3"):
        write([made("topk:4"), made("topk:8")], tmp_path / "x", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["topk:4", "batch_topk:4", "relu", "jumprelu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_on_a_cpu(kind: str, dtype: torch.dtype):
    x = draw(N, D, dtype=torch.float32).to(dtype)
    transcoder = made(kind).to(dtype)
    with torch.no_grad():
        y, wanted = transcoder(x), transcoder.float()(x.float())
    assert y.dtype == dtype
    assert (y.float() - wanted).norm() < 0.05 * wanted.norm()


def test_a_set_may_list_files_of_gemma_scope(tmp_path):
    for layer in range(2):
        gemma_scope(tmp_path / f"layer_{layer}")
    (tmp_path / "config.yaml").write_text(
        "feature_input_hook: ln2.hook_normalized\nfeature_output_hook: hook_mlp_out\n"
        "transcoders: [layer_0/params.npz, layer_1/params.npz]\n"
    )
    assert [each.spec.reads for each in read(tmp_path)] == [Site("hook_normalized", layer) for layer in range(2)]


def test_a_file_of_a_set_is_read_as_the_set_is(tmp_path):
    write(layers(signed(), signed()), tmp_path / "set", "circuit-tracer")
    said = yaml.safe_load((tmp_path / "set" / "config.yaml").read_text())
    hooks = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "mlp.hook_out"}
    (tmp_path / "set" / "config.yaml").write_text(yaml.safe_dump(said | hooks))
    file = tmp_path / "set" / "layer_1.safetensors"
    (_, whole), (alone,) = read(tmp_path / "set"), read(file)
    same(alone, whole)
    assert alone.spec.reads == Site("hook_normalized", 1) and alone.spec.writes[0].before_post_norm
    assert read(file, reads=Site("resid_mid", 1))[0].spec.reads == Site("resid_mid", 1)
    with pytest.raises(InputError, match=r"layer_1\.safetensors: beside it lies a set's config\.yaml"):
        write(made("relu", layer=1), file, "circuit-tracer")
    same(read(file)[0], whole)


def test_a_transcoder_of_a_whole_layer_is_no_autoencoder(tmp_path):
    with pytest.raises(InputError, match="reads layer 8 resid_pre and writes layer 8 resid_post; it must read an MLP"):
        read(sparsify(tmp_path / "transcoder", "layers.8"))
    (found,) = read(sparsify(tmp_path / "autoencoder", "layers.8", transcode=False))
    assert found.spec.is_autoencoder and found.spec.reads == Site("resid_post", 8)


@pytest.mark.parametrize(
    ("said", "message"),
    [({"architecture": "topk"}, "only JumpReLU is read"), ({"affine_connection": True}, "its tensors say otherwise")],
)
def test_a_cross_layer_folder_of_gemma_scope_is_what_its_config_says(tmp_path, said: dict, message: str):
    write(cross_layer("jumprelu"), tmp_path, "gemma-scope-2")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "jump_relu", "affine_connection": False}))
    assert len(read(tmp_path)) == 3
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_what_a_cross_layer_file_writes_below_its_layer_is_not_passed_over(tmp_path):
    write(cross_layer("jumprelu"), tmp_path, "gemma-scope-2")
    tensors = load_file(tmp_path / "params_layer_2.safetensors")
    tensors["w_dec"][0, 1, 0] = 1
    save_file(tensors, tmp_path / "params_layer_2.safetensors")
    with pytest.raises(InputError, match="params_layer_2.*w_dec writes to layers below 2"):
        read(tmp_path)


def test_thresholds_are_as_exact_as_they_are_stored(tmp_path):
    state = weights() | {"threshold": torch.full((F,), 0.4001)}
    kinds = {name: x.bfloat16() if name == "W_enc" else x for name, x in state.items()}
    save_file({name.replace("W", "w"): x.contiguous() for name, x in kinds.items()}, tmp_path / "layer_3.safetensors")
    (found,) = read(tmp_path / "layer_3.safetensors")
    assert found.W_enc.dtype == torch.float32 and torch.equal(found.threshold, state["threshold"])


def test_a_folder_of_folders_says_which_to_give(tmp_path):
    write([made("topk:4", layer=layer) for layer in (2, 4)], tmp_path / "run" / "set", "edgewise")
    with pytest.raises(InputError, match=r"of no format that is known; give .*set"):
        read(tmp_path / "run")


def test_integer_weights_are_one_clear_line(tmp_path):
    state = {name: (x * 10).to(torch.int32).contiguous() for name, x in weights().items()}
    save_file(state | {"W_enc": state["W_enc"].T.contiguous()}, tmp_path / "layer_3.safetensors")
    with pytest.raises(InputError, match="W_enc is of int32"):
        read(tmp_path / "layer_3.safetensors")


@pytest.mark.parametrize("source", ["hf://foo", "hf:///x", "hf://a//b"])
def test_what_is_no_hub_id_is_one_clear_line(source: str):
    with pytest.raises(InputError, match="no hub id|neither here nor on the hub"):
        read(source)


def test_a_hub_repository_of_folders_is_not_fetched_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    names, fetched = ["README.md", "layer_3/width_16k/params.npz", "layer_4/width_16k/params.npz"], []

    def fetch(repository: str, revision: str | None, allow_patterns: list[str] | None) -> str:
        fetched.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda repository, revision: names)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(InputError, match=r"its weights \(2 files\) lie in folders; .* org/set/layer_3/width_16k@v1"):
        read("org/set@v1")
    assert not fetched
    with pytest.raises(InputError, match="holds no layer_3"):
        read("org/set/layer_3")
    with pytest.raises(InputError, match="holds no layer_3/params.npz"):
        read("org/set/layer_3/params.npz")
    beside = ["layer_3/config.yaml", "layer_3/config.json"]
    assert fetched == [["layer_3", "layer_3/*", "config.json"], ["layer_3/params.npz", *beside]]
    write([made("topk:4", layer=layer) for layer in (0, 1)], tmp_path, "sparsify")
    names[:] = ["layers.0.mlp/sae.safetensors", "layers.1.mlp/sae.safetensors"]
    assert [each.spec.reads.layer for each in read("org/set")] == [0, 1] and fetched[-1] is None
    names[:] = ["config.yaml", "layer_0/params.npz"]
    read("org/set")  # a set may list files in its folders
    assert len(fetched) == 4
