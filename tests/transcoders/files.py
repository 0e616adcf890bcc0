"""Small transcoders of every kind, and which file format can hold each."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec
from tests.transcoders.reference import draw, random_transcoder

D, F, N = 16, 64, 30


def made(activation: str = "topk:4", **changes) -> Transcoder:
    sizes = {"d_in": D, "d_out": D, "n_features": F, "dtype": torch.float32, "layer": 3}
    return random_transcoder(activation, **(sizes | changes))


def tied(transcoder: Transcoder) -> Transcoder:
    """An autoencoder that takes off its input what it adds to its output."""
    return transcoder.folded(transcoder.b_dec.detach())


def signed(k: int = 4) -> Transcoder:
    base = made(f"topk:{k}")
    spec = TranscoderSpec(**{**base.spec.__dict__, "activation": Activation("topk", k, rectified=False)})
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
    "circuit-tracer topk": ("circuit-tracer", "t", lambda: layers(signed(), signed())),
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
    (moved,) = layers(transcoder)
    return moved


def layers(*transcoders: Transcoder) -> list[Transcoder]:
    """The same, one a layer from 0 on."""
    found = []
    for layer, each in enumerate(transcoders):
        reads, writes = replace(each.spec.reads, layer=layer), (replace(each.spec.writes[0], layer=layer),)
        found.append(Transcoder(replace(each.spec, reads=reads, writes=writes)))
        found[-1].load_state_dict(each.state_dict())
    return found


def same(a: Transcoder, b: Transcoder) -> None:
    assert a.spec == b.spec
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def weights(n_features: int = F, d: int = D) -> dict[str, Tensor]:
    """Tensors in the row convention: encoder `[d, F]`, decoder `[F, d]`."""
    shapes = {"W_enc": (d, n_features), "W_dec": (n_features, d), "b_enc": (n_features,), "b_dec": (d,)}
    return {name: draw(*shape, seed=i, dtype=torch.float32) * 0.3 for i, (name, shape) in enumerate(shapes.items())}


X = draw(N, D, seed=9, dtype=torch.float32)
