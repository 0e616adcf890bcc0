"""dictionary_learning folders: `ae.pt` (a plain state dict) and `config.json`. Autoencoders only."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.runs import Keys, Only, atomic_path, read_pickle, record_of, whole_number, yes_or_no
from edgewise.transcoders import Activation, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import hook_name, named_site, sites_named

_CLASSES = {
    "AutoEncoder": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk",
    "JumpReluAutoEncoder": "jumprelu",
}
KEYS = Keys(
    "dictionary_learning: `trainer` of `config.json`",
    honoured={
        "dict_class": "the kind; those not read are refused",
        "k": "of top-k kinds, where the tensors do not hold it",
        "submodule_name": "the site: the module's output, or with the buffer's `io: in` its input",
    },
    irrelevant={
        "the tensors tell": ("activation_dim", "dict_size", "layer"),
        "the model that it is for, kept with it": ("lm_name",),
        "of the training alone": (
            *("trainer_class", "lr", "steps", "warmup_steps", "sparsity_warmup_steps", "decay_start", "seed", "device"),
            *("wandb_name", "auxk_alpha", "threshold_beta", "threshold_start_step", "top_k_aux", "l1_penalty"),
            *("resample_steps", "bandwidth", "sparsity_penalty", "target_l0", "k_anneal_steps", "group_fractions"),
            *("group_weights", "group_sizes", "initial_sparsity_penalty", "sparsity_function", "p_start", "p_end"),
            *("anneal_start", "anneal_end", "n_sparsity_updates", "sparsity_queue_length", "use_compile"),
        ),
    },
)
BUFFER = Keys(
    "dictionary_learning: `buffer` of `config.json`",
    honoured={
        "remove_bos": "true: its features are off at the first token of each row, and here at special tokens too",
    },
    refused={"io": Only(("out", "in"), "autoencoders of a module's output or input are read")},
    irrelevant={
        "of the training alone": (
            *("d_submodule", "n_ctxs", "ctx_len", "refresh_batch_size", "out_batch_size", "device"),
            "add_special_tokens",
        ),
    },
)
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a folder."""
    whole = files.read_json(path / "config.json")
    config, buffer = whole.get("trainer", {}), whole.get("buffer") or {}
    KEYS.check(path, config)
    BUFFER.check(path, buffer)
    name = str(config.get("dict_class", ""))
    if name not in _CLASSES:
        raise InputError(f"{path}: dict_class {name!r} is not read; {', '.join(_CLASSES)} are")
    state = read_pickle(path / "ae.pt")
    state = _of_the_model(path, state)
    kind = _CLASSES[name]
    k = files.scalar(state.get("k", config.get("k")))
    activation = Activation(kind, whole_number(path, "k", k) if "topk" in kind else None)
    names, turned = _stored(kind)
    found = files.weights_in(state, path, names, turned=turned, also=["k", "threshold"])
    if kind != "jumprelu":  # which takes nothing off its input
        found["b_in"] = found["b_dec"].clone()
    if kind == "batch_topk":
        found["threshold"] = files.take(state, "threshold", path).reshape(1)
    if buffer.get("io") == "in" and sites.reads is None:
        sites = replace(sites, reads=named_site(path, config.get("submodule_name")))
    site, _ = sites_named(path, sites, config.get("submodule_name"), autoencoder=True)
    without_first = yes_or_no(path, "remove_bos", buffer.get("remove_bos") or False)
    excludes = without_first if sites.exclude_special is None else sites.exclude_special
    return [files.built(path, found, activation, site, [site], excludes, format="dictionary-learning", config=config)]


def _of_the_model(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's tensors, also out of a training backup, which holds more beside them.

    Raises:
        InputError: a backup is of scaled activations. Only when its training ends are its biases scaled back.
    """
    if "ae" not in state:
        return state
    if state.get("norm_factor") is not None:
        raise InputError(f"{path}: a training backup of activations divided by its norm_factor; give the finished file")
    return dict(state["ae"])


def _stored(kind: str) -> tuple[dict[str, str], list[str]]:
    """Their names, and which are the other way round."""
    if kind == "jumprelu":
        return {}, ["W_enc"]
    return _LINEAR | ({"b_dec": "bias"} if kind == "relu" else {}), ["W_dec"]


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write a folder."""
    transcoder = files.one(transcoders, "dictionary-learning")
    spec = files.require(transcoder, "dictionary-learning", list(_CLASSES.values()), transcoders=False)
    kind, k = spec.activation.kind, spec.activation.k
    form = files.without_input_bias(transcoder) if kind == "jumprelu" else transcoder.folded(transcoder.b_dec)
    names, turned = _stored(kind)
    state = files.weights_of(form, names, turned=turned)
    if k is not None:
        state |= {"k": torch.tensor(k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    if kind == "batch_topk":
        state["threshold"] = form.threshold[0]
    trainer: dict[str, Any] = {
        "dict_class": {kind: name for name, kind in _CLASSES.items()}[kind],
        "activation_dim": spec.d_in,
        "dict_size": spec.n_features,
        "layer": spec.reads.layer,
        "lm_name": record_of(transcoder.provenance, "model").get("id", ""),
        "submodule_name": hook_name(spec.reads),
    }
    trainer |= {} if k is None else {"k": k}
    with atomic_path(path / "ae.pt") as temporary:
        torch.save(files.stored(state), temporary)
    buffer = {"io": "out", "remove_bos": spec.exclude_special}
    files.write_json(path / "config.json", {"trainer": trainer, "buffer": buffer})


def _is_theirs(path: Path) -> bool:
    return (path / "ae.pt").is_file()


FORMAT = Format("dictionary-learning", "dictionary_learning folder: autoencoders", _is_theirs, read, write)
