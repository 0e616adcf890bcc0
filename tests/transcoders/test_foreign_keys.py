"""What other tools' files say of the vector and of the tokens is honoured or refused, key by key; docs/foreign-files.md
has the tables.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from edgewise import InputError
from edgewise.engine.features import FeatureLayer
from edgewise.engine.features._block import FeatureBlock
from edgewise.models import Model
from edgewise.runs import Keys
from edgewise.transcoders import Replacement, Site, Transcoder, capture, read, write
from edgewise.transcoders.analysis._reader import reader, reading_bias
from edgewise.transcoders.formats import (
    _authors,
    _circuit_tracer,
    _dictionary_learning,
    _gemma_scope,
    _saelens,
    _sparsify,
    round_trip_differences,
)
from tests.engine.featured import transcoder_of
from tests.tiny import VOCABULARY, tiny
from tests.transcoders.reference import random_transcoder

D, F = 32, 64
IDS = torch.randint(VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


def saelens(folder: Path, config: dict[str, Any] | None = None, **metadata: Any) -> Path:
    """A transcoder's folder as SAELens writes it."""
    folder.mkdir(parents=True)
    made = random_transcoder("relu", d_in=D, d_out=D, n_features=F, dtype=torch.float32)
    tensors = {"W_enc": made.W_enc.T, "b_enc": made.b_enc, "W_dec": made.W_dec, "b_dec": made.b_dec}
    save_file({name: x.detach().contiguous() for name, x in tensors.items()}, folder / "sae_weights.safetensors")
    hooks = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    said = {"architecture": "transcoder", "d_in": D, "d_sae": F, "d_out": D, "dtype": "float32"}
    (folder / "cfg.json").write_text(json.dumps(said | (config or {}) | {"metadata": hooks | metadata}))
    return folder


def circuit_tracer(folder: Path, **config: Any) -> Path:
    """A set of three layers."""
    sites = {"reads": "hook_normalized", "d_in": D, "d_out": D, "n_features": F, "dtype": torch.float32}
    write([random_transcoder("relu", layer=i, **sites) for i in range(3)], folder, "circuit-tracer")
    said = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(said | config))
    return folder


def tiny_sized(name: str) -> Model:
    """Of width `D`."""
    return tiny(name, torch.float32)


def hooked(name: str) -> tuple[Tensor, Tensor]:
    """TransformerLens' `ln2.hook_normalized` of the model as it is: after gain and bias of a layer norm, before the
    gain of an RMS norm; and what it is once the norm is folded.
    """
    norm: Any = tiny_sized(name).parts.layers[1].mlp.norm.module
    seen: list[tuple[Tensor, Tensor]] = []
    handle = norm.register_forward_hook(lambda _module, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        tiny_sized(name).module(IDS)
    handle.remove()
    x, out = seen[0]
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", 0.0)
    bare = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return (out if isinstance(norm, nn.LayerNorm) else bare), bare


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel", "llama-gqa", "gemma2"])
def test_the_hook_of_a_norm_is_the_vector_that_the_tools_take_there(tmp_path: Path, name: str):
    model, (plain, folded) = tiny_sized(name), hooked(name)
    sets = {
        "saelens": (read(saelens(tmp_path / "plain"))[0], plain),
        "folded": (read(saelens(tmp_path / "folded", model_from_pretrained_kwargs={"fold_ln": True}))[0], folded),
        "circuit-tracer": (read(circuit_tracer(tmp_path / "set"))[1], plain),
    }
    for transcoder, wanted in sets.values():
        site = transcoder.spec.reads
        torch.testing.assert_close(capture(model, [site], IDS)[site], wanted, rtol=1e-5, atol=1e-5)
        write(transcoder, tmp_path / f"again {site.kind} {len(list(tmp_path.iterdir()))}", "saelens")
    again = [read(each)[0].spec.reads.kind for each in sorted(tmp_path.glob("again*"))]
    assert again == ["hook_normalized", "hook_normalized", "mlp_normalized"]


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "mlp_in"), ("llama-gqa", "mlp_normalized")])
def test_a_model_reads_that_hook_as_the_site_that_it_is_there(name: str, kind: str):
    model = tiny(name)
    named, own = (transcoder_of(model, 2, site=site) for site in ("hook_normalized", kind))
    with torch.no_grad():
        assert torch.equal(Replacement(model, named).logits(IDS), Replacement(model, own).logits(IDS))
    first, second = (FeatureBlock.of(model.parts, FeatureLayer.of(model, each)).readers for each in (named, own))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(reader(model, named).covector, reader(model, own).covector)
    assert torch.equal(reading_bias(model, named), reading_bias(model, own))
    assert first.bias is not None and second.bias is not None and torch.equal(first.bias, second.bias)


@pytest.mark.parametrize(
    ("said", "excludes"),
    [({"exclude_special_tokens": True}, True), ({"exclude_special_tokens": False}, False), ({}, False)],
)
def test_files_that_left_special_tokens_out_say_so(tmp_path: Path, said: dict, excludes: bool):
    place = saelens(tmp_path / "x", **said)
    (found,) = read(place)
    assert found.spec.exclude_special == bool(Replacement(tiny_sized("gpt2"), found).exclude_special) == excludes
    assert read(place, exclude_special=not excludes)[0].spec.exclude_special is not excludes
    write(found, tmp_path / "y", "saelens")
    assert read(tmp_path / "y")[0].spec == found.spec


def test_a_list_of_tokens_is_refused_until_it_is_said_which(tmp_path: Path):
    place = saelens(tmp_path / "x", exclude_special_tokens=[0, 7])
    with pytest.raises(InputError, match=r"exclude_special_tokens is \[0, 7\].*give exclude_special=True"):
        read(place)
    assert read(place, exclude_special=True)[0].spec.exclude_special


def test_what_a_format_does_not_say_of_tokens_is_told_and_own_files_know(tmp_path: Path):
    (found,) = read(saelens(tmp_path / "x", exclude_special_tokens=True))
    write(found, tmp_path / "layer_1.safetensors", "edgewise")
    assert read(tmp_path / "layer_1.safetensors", exclude_special=False)  # of another tool: the user may know better
    made = [random_transcoder("relu", d_in=D, d_out=D, n_features=F, layer=i) for i in range(2)]
    for each in made:
        each.spec = type(each.spec)(**{**vars(each.spec), "exclude_special": True})
    write(made, tmp_path / "set", "circuit-tracer")
    assert round_trip_differences(made, tmp_path / "set", "circuit-tracer") == [
        "circuit-tracer does not say that it was made without special and first tokens"
    ]
    write(made[0], tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="it says exclude_special=True; False was given"):
        read(tmp_path / "own.safetensors", exclude_special=False)


def test_centred_weights_are_centred_sites(tmp_path: Path):
    (found,) = read(saelens(tmp_path / "x", model_from_pretrained_kwargs={"center_writing_weights": True}))
    assert found.spec.writes == (Site("mlp_out", 1, centred=True),) and not found.spec.reads.centred
    write(found, tmp_path / "y", "saelens")
    assert read(tmp_path / "y")[0].spec == found.spec


def test_an_output_before_a_post_norm_is_refused_where_there_is_one(tmp_path: Path):
    place = circuit_tracer(tmp_path / "set", feature_output_hook="mlp.hook_out")
    found = read(place)[1]
    assert found.spec.writes == (Site("mlp_out", 1),)
    Replacement(tiny_sized("gpt2"), found)
    with pytest.raises(InputError, match="this model has a post-norm after it"):
        Replacement(tiny_sized("gemma2"), found)
    write(read(place), tmp_path / "again", "circuit-tracer")
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["feature_output_hook"] == "mlp.hook_out"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hook_name_out": None}, "it does not say its hook_name_out; name the sites"),
        ({"hook_name": None}, "it does not say its hook_name; name the sites"),
        ({"model_class_name": "HookedMamba"}, "of a HookedMamba, whose hooks are not known; name the sites"),
        (
            {"model_class_name": "AutoModelForCausalLM", "hook_name": "model.layers.0.mlp"},
            "it must read an MLP's input",
        ),
        ({"seqpos_slice": [5, -5]}, "some positions alone"),
    ],
)
def test_sites_and_tokens_that_a_file_does_not_tell_are_refused(tmp_path: Path, said: dict, message: str):
    with pytest.raises(InputError, match=message):
        read(saelens(tmp_path / "x", **said))


# ------------------------------------------------------------------------------------------------------- key by key


def _counted(folder: Path, **changes: Any) -> Path:
    write(
        random_transcoder("topk:4", d_in=D, d_out=D, layer=1, dtype=torch.float32), folder / "layers.1.mlp", "sparsify"
    )
    return _changed(folder / "layers.1.mlp" / "cfg.json", (), changes).parent


def _learned(folder: Path, at: str, **changes: Any) -> Path:
    write(random_transcoder("topk:4", d_in=D, autoencoder=True, dtype=torch.float32), folder, "dictionary-learning")
    return _changed(folder / "config.json", (at,), changes).parent


def _changed(path: Path, inner: tuple[str, ...], changes: dict[str, Any]) -> Path:
    content = json.loads(path.read_text())
    part = content
    for key in inner:
        part = part[key]
    part |= changes
    path.write_text(json.dumps(content))
    return path


def _of_authors(folder: Path, **changes: Any) -> Path:
    made: Transcoder = random_transcoder("relu", reads="mlp_normalized", input_bias=True, d_in=D, d_out=D)
    made.spec = type(made.spec)(**{**vars(made.spec), "writes": (Site("mlp_out", 0, centred=True),)})
    folder.mkdir()
    settings = _authors._settings

    def changed(transcoder: Transcoder) -> dict[str, Any]:
        return settings(transcoder) | changes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_authors, "_settings", changed)
        write(made, folder / "t.pt", "authors")
    return folder / "t.pt"


def _of_gemma_scope(folder: Path, **given: Any) -> Path:
    place = folder / "layer_1_width_64"
    write(
        random_transcoder("jumprelu", d_in=D, d_out=D, n_features=F, layer=1, dtype=torch.float32),
        place,
        "gemma-scope-2",
    )
    (place / "config.json").write_text(json.dumps(given))
    return place


READERS: dict[str, tuple[Keys, Callable[..., Path]]] = {
    "saelens": (_saelens.KEYS, lambda at, **given: saelens(at, given)),
    "saelens metadata": (_saelens.METADATA, lambda at, **given: saelens(at, **given)),
    "saelens of 5": (_saelens.METADATA, lambda at, **given: saelens(at, given)),
    "saelens loading": (_saelens.LOADING, lambda at, **given: saelens(at, model_from_pretrained_kwargs=given)),
    "circuit-tracer": (_circuit_tracer.KEYS, circuit_tracer),
    "sparsify": (_sparsify.KEYS, _counted),
    "dictionary-learning": (_dictionary_learning.KEYS, lambda at, **given: _learned(at, "trainer", **given)),
    "dictionary-learning buffer": (_dictionary_learning.BUFFER, lambda at, **given: _learned(at, "buffer", **given)),
    "authors": (_authors.KEYS, _of_authors),
    "gemma-scope-2": (_gemma_scope.KEYS, _of_gemma_scope),
}


@pytest.mark.parametrize("name", READERS)
def test_keys_that_are_refused_are_refused_and_unknown_ones_warned_of(tmp_path: Path, name: str):
    keys, make = READERS[name]
    with pytest.warns(UserWarning, match="'scale_of_inputs' is not known here"):
        read(make(tmp_path / "unknown", scale_of_inputs=2))
    for key in keys.refused:
        with pytest.raises(InputError, match=key) as caught:
            read(make(tmp_path / key, **{key: "another"}))
        assert "\n" not in str(caught.value)
    read(make(tmp_path / "irrelevant", **{key: None for each in keys.irrelevant.values() for key in each}))


COUNTED = {
    "saelens": lambda at, k: saelens(at, {"architecture": "topk", "k": k}, hook_name="blocks.1.hook_resid_pre"),
    "sparsify": lambda at, k: _counted(at, k=k),
    "circuit-tracer": lambda at, k: circuit_tracer(at, activation="topk", k=k),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("k", [float("inf"), float("nan"), 2.5, "3", True, None, [3]])
def test_a_count_that_is_none_is_neither_cut_short_nor_guessed(tmp_path: Path, name: str, k):
    with pytest.raises(InputError, match=r"k is .*; it must be a whole number") as caught:
        read(COUNTED[name](tmp_path / "t", k))
    assert "\n" not in str(caught.value)


FLAGS = {
    "apply_b_dec_to_input": lambda at: saelens(
        at, {"architecture": "standard", "apply_b_dec_to_input": "false"}, hook_name="blocks.1.hook_resid_pre"
    ),
    "fold_ln": lambda at: saelens(at, model_from_pretrained_kwargs={"fold_ln": "false"}),
    "transcode": lambda at: _counted(at, transcode="false"),
    "remove_bos": lambda at: _learned(at, "buffer", remove_bos="false"),
}


@pytest.mark.parametrize("key", FLAGS)
def test_the_text_false_is_no_yes(tmp_path: Path, key: str):
    with pytest.raises(InputError, match=f"{key} is 'false'; it must be true or false"):
        read(FLAGS[key](tmp_path / "t"))
