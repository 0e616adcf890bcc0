"""dictionary_learning folders: `ae.pt` (a plain state dict) and `config.json`. Autoencoders only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs import atomic_path
from edgewise.transcoders import Activation, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import hook_name, sites_named

_CLASSES = {
    "AutoEncoder": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk",
    "JumpReluAutoEncoder": "jumprelu",
}
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a folder."""
    config = files.read_json(path / "config.json").get("trainer", {})
    name = str(config.get("dict_class", ""))
    if name not in _CLASSES:
        raise InputError(f"{path}: dict_class {name!r} is not read; {', '.join(_CLASSES)} are")
    state = files.unpickled(path / "ae.pt")
    state = dict(state.get("ae", state))  # a training backup holds more beside it
    kind = _CLASSES[name]
    activation = Activation(kind, int(state["k"] if "k" in state else config["k"]) if "topk" in kind else None)
    found = _from_theirs(kind, state, path)
    site, _ = sites_named(path, sites, config.get("submodule_name"), autoencoder=True)
    return [files.built(path, found, activation, site, [site], format="dictionary-learning", config=config)]


def _from_theirs(kind: str, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if kind == "jumprelu":  # nothing is taken off its input
        found = {name: files.take(state, name, path) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
        return found | {"W_enc": found["W_enc"].T.contiguous()}
    found = {ours: files.take(state, theirs, path) for ours, theirs in _LINEAR.items()}
    found["W_dec"] = found["W_dec"].T.contiguous()
    found["b_dec"] = files.take(state, "bias" if kind == "relu" else "b_dec", path)
    found["b_in"] = found["b_dec"].clone()
    if kind == "batch_topk":
        found["threshold"] = files.take(state, "threshold", path).reshape(1)
    return found


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write a folder."""
    transcoder = files.one(transcoders, "dictionary-learning")
    spec = files.require(transcoder, "dictionary-learning", list(_CLASSES.values()), transcoders=False)
    kind, k = spec.activation.kind, spec.activation.k
    if kind == "jumprelu":
        form = files.without_input_bias(transcoder)
        state: dict[str, Tensor] = {
            "W_enc": form.W_enc.T,
            "b_enc": form.b_enc,
            "W_dec": form.W_dec,
            "b_dec": form.b_dec,
        }
        state["threshold"] = form.threshold
    else:
        form = transcoder.folded(transcoder.b_dec)
        state = {"encoder.weight": form.W_enc, "encoder.bias": form.b_enc, "decoder.weight": form.W_dec.T}
        state["bias" if kind == "relu" else "b_dec"] = form.b_dec
    if k is not None:
        state |= {"k": torch.tensor(k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    if kind == "batch_topk":
        state["threshold"] = form.threshold[0]
    trainer: dict[str, Any] = {
        "dict_class": {kind: name for name, kind in _CLASSES.items()}[kind],
        "activation_dim": spec.d_in,
        "dict_size": spec.n_features,
        "layer": spec.reads.layer,
        "lm_name": transcoder.provenance.get("model", {}).get("id", ""),
        "submodule_name": hook_name(spec.reads),
    }
    trainer |= {} if k is None else {"k": k}
    with atomic_path(path / "ae.pt") as temporary:
        torch.save(files.stored(state), temporary)
    files.write_json(path / "config.json", {"trainer": trainer, "buffer": {}})


FORMAT = Format(
    "dictionary-learning",
    "dictionary_learning folder: autoencoders",
    lambda path: (path / "ae.pt").is_file(),
    read,
    write,
)
