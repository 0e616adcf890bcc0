"""Files read and written here mean the same to the tools they belong to.

These tools are no part of the project's environment: each test is skipped where its tool is not installed. `make
other-tools` installs them beside edgewise in an environment of their own, where one that is missing is a failure
(`EDGEWISE_OTHER_TOOLS`).
"""

import os
import warnings
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.transcoders import Transcoder
from edgewise.transcoders.formats import read, write
from tests.transcoders.files import D, as_authors, at_layer_0, cross_layer, made, signed, tied
from tests.transcoders.reference import draw

X = draw(50, D, seed=9, dtype=torch.float32)

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's


def tool(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if os.environ.get("EDGEWISE_OTHER_TOOLS"):
            return import_module(name)
        return pytest.importorskip(name, exc_type=ImportError)


def same(ours: Transcoder, theirs: Tensor, features: Tensor | None = None) -> None:
    torch.testing.assert_close(theirs.detach(), ours(X).detach(), rtol=1e-5, atol=1e-5)
    if features is not None:
        torch.testing.assert_close(features.detach(), ours.encode(X).detach(), rtol=1e-5, atol=1e-5)


def unchanged(a: Transcoder, b: Transcoder) -> None:
    assert a.spec == b.spec
    assert [name for name, x in a.state_dict().items() if not torch.equal(x, b.state_dict()[name])] == []


SAELENS = {
    "transcoder": lambda: made("relu"),
    "skip": lambda: made("relu", skip=True),
    "jumprelu": lambda: made("jumprelu", reads="mlp_normalized"),
    "jumprelu skip": lambda: made("jumprelu", skip=True),
    "batch_topk": lambda: made("batch_topk:4"),
    "input bias": lambda: made("relu", input_bias=True),
    "sae": lambda: tied(made("relu", autoencoder=True)),
    "sae topk": lambda: tied(made("topk:4", autoencoder=True)),
    "sae jumprelu": lambda: made("jumprelu", autoencoder=True, input_bias=True),
}


@pytest.mark.parametrize("case", SAELENS)
def test_saelens(tmp_path, case: str):
    sae_lens = tool("sae_lens")
    ours = SAELENS[case]()
    write(ours, tmp_path / "ours", "saelens")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    same(ours, theirs(X), theirs.encode(X))
    theirs.save_model(tmp_path / "theirs")
    unchanged(read(tmp_path / "theirs")[0], read(tmp_path / "ours")[0])


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("autoencoder", [False, True])
def test_sparsify(tmp_path, autoencoder: bool, skip: bool):
    sparsify = tool("sparsify")
    ours = made("topk:4", autoencoder=autoencoder, skip=skip)
    ours = tied(ours) if autoencoder else ours
    write(ours, tmp_path / "ours" / "layers.3.mlp", "sparsify")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path / "ours" / "layers.3.mlp")
    result = theirs(X)
    features = torch.zeros(len(X), ours.n_features).scatter(1, result.latent_indices, result.latent_acts)
    same(ours, result.sae_out, features)
    theirs.save_to_disk(tmp_path / "theirs" / "layers.3.mlp")
    unchanged(read(tmp_path / "theirs")[0], ours)


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_circuit_tracer_layers(tmp_path, kind: str):
    tool("circuit_tracer")
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set  # pyright: ignore

    ours = [made(kind, layer=layer, skip=True, seed=layer) for layer in range(3)]
    write(ours, tmp_path / "ours", "circuit-tracer")
    theirs = load_transcoder_set(
        {layer: str(tmp_path / "ours" / f"layer_{layer}.safetensors") for layer in range(3)},
        scan="",
        feature_input_hook="mlp.hook_in",
        feature_output_hook="hook_mlp_out",
        device=torch.device("cpu"),
        lazy_encoder=False,
        lazy_decoder=False,
    )
    for each, their in zip(ours, theirs, strict=True):
        same(each, their(X), their.encode(X))
    theirs.to_safetensors(str(tmp_path / "theirs"))
    for each, again in zip(ours, read(tmp_path / "theirs"), strict=True):
        unchanged(each, again)


def test_circuit_tracers_topk(tmp_path):
    tool("circuit_tracer")
    from circuit_tracer.transcoder.activation_functions import TopK  # pyright: ignore
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder  # pyright: ignore

    ours = at_layer_0(signed())
    theirs = SingleLayerTranscoder(D, ours.n_features, TopK(4), 0, device=torch.device("cpu"), dtype=torch.float32)
    theirs.load_state_dict({name: x for name, x in ours.state_dict().items() if name != "threshold"})
    same(ours, theirs(X), theirs.encode(X))


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_circuit_tracer_cross_layer(tmp_path, kind: str):
    tool("circuit_tracer")
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt  # pyright: ignore

    ours = cross_layer(kind)
    write(ours, tmp_path / "ours", "circuit-tracer")
    theirs = load_clt(
        str(tmp_path / "ours"), device=torch.device("cpu"), dtype=torch.float32, lazy_decoder=False, lazy_encoder=False
    )
    inputs = torch.stack([X, X * 0.5, X + 1])
    expected = torch.zeros(3, len(X), D)
    for layer, each in enumerate(ours):
        with torch.no_grad():
            written = each(inputs[layer]).view(len(X), -1, D)
        for later in range(written.shape[1]):
            expected[layer + later] += written[:, later]
    features = theirs.encode(inputs)
    torch.testing.assert_close(theirs.decode(features.to_sparse()), expected, rtol=1e-5, atol=1e-5)
    theirs.to_safetensors(str(tmp_path / "theirs"))
    again = read(tmp_path / "theirs")
    for each, other in zip(ours, again, strict=True):
        assert each.activation == other.activation
        assert all(torch.equal(x, other.state_dict()[name]) for name, x in each.state_dict().items())


def test_gemma_scope_as_circuit_tracer_reads_it(tmp_path):
    tool("circuit_tracer")
    from circuit_tracer.transcoder import single_layer_transcoder as theirs  # pyright: ignore

    cpu = torch.device("cpu")
    one, two = made("jumprelu", reads="mlp_normalized"), made("jumprelu", skip=True)
    write(one, tmp_path / "layer_3.npz", "gemma-scope")
    same(one, theirs.load_gemma_scope_transcoder(str(tmp_path / "layer_3.npz"), 3, device=cpu)(X))
    write(two, tmp_path / "layer_3.safetensors", "gemma-scope-2")
    same(two, theirs.load_gemma_scope_2_transcoder(str(tmp_path / "layer_3.safetensors"), 3, device=cpu)(X))


DICTIONARIES = {"relu": "AutoEncoder", "topk:4": "AutoEncoderTopK", "batch_topk:4": "BatchTopKSAE"}


@pytest.mark.parametrize("kind", [*DICTIONARIES, "jumprelu"])
def test_dictionary_learning(tmp_path, kind: str):
    tool("dictionary_learning")
    from dictionary_learning.utils import load_dictionary  # pyright: ignore

    ours = made(kind, autoencoder=True)
    ours = ours if kind == "jumprelu" else tied(ours)
    write(ours, tmp_path / "ours", "dictionary-learning")
    theirs, config = load_dictionary(str(tmp_path / "ours"), "cpu")
    if kind == "relu":  # its loader scales the features, so that decoder rows have norm 1
        same(ours, theirs(X))
        theirs = type(theirs).from_pretrained(str(tmp_path / "ours" / "ae.pt"), normalize_decoder=False)
    assert config["trainer"]["dict_class"] == DICTIONARIES.get(kind, "JumpReluAutoEncoder")
    same(ours, theirs(X), theirs.encode(X))
    folder = tmp_path / "theirs"
    folder.mkdir()
    torch.save(theirs.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_bytes((tmp_path / "ours" / "config.json").read_bytes())
    unchanged(read(folder)[0], ours)


def test_the_authors_own_class_reads_what_is_written(tmp_path, monkeypatch):
    """With their repository's folder on PYTHONPATH (`sae_training` is no package of an index)."""
    sae_training = pytest.importorskip("sae_training.sparse_autoencoder")
    ours = as_authors(made("relu", reads="mlp_normalized", input_bias=True))
    write(ours, tmp_path / "t.pt", "authors")
    # Their loader is older than torch.load's present default.
    monkeypatch.setattr(torch, "load", partial(torch.load, weights_only=False))
    theirs = sae_training.SparseAutoencoder.load_from_pretrained(str(tmp_path / "t.pt"))
    same(ours, theirs(X)[0], theirs(X)[1])
    theirs.save_model(str(tmp_path / "again.pt"))
    monkeypatch.undo()
    unchanged(read(tmp_path / "again.pt")[0], ours)
