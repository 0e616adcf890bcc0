"""SAELens directories (version 6): `cfg.json` and `sae_weights.safetensors`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.transcoders import Activation, Transcoder, TranscoderSpec
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import hook_name, sites_named

_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
_AUTOENCODERS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_TRANSCODERS = {"transcoder": "relu", "jumprelu_transcoder": "jumprelu"}
_TRANSCODERS |= {"skip_transcoder": "relu", "jumprelu_skip_transcoder": "jumprelu"}


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a directory."""
    config = files.read_json(path / _CONFIG)
    architecture = str(config.get("architecture", "standard"))
    kinds = _AUTOENCODERS | _TRANSCODERS
    if architecture not in kinds:
        raise InputError(f"{path}: architecture {architecture!r} is not read; {', '.join(kinds)} are")
    _check(config, path)
    tensors = files.tensors_of(path / _WEIGHTS)
    metadata = config.get("metadata") or {}
    is_transcoder = architecture in _TRANSCODERS
    found = files.weights_in(tensors, path, turned=["W_enc"])
    if not is_transcoder and config.get("apply_b_dec_to_input", True):
        found["b_in"] = found["b_dec"].clone()
    name = metadata.get("hook_name") or config.get("hook_name")
    reads, writes = sites_named(path, sites, name, metadata.get("hook_name_out"), autoencoder=not is_transcoder)
    activation = Activation(kinds[architecture], int(config["k"]) if architecture == "topk" else None)
    return [files.built(path, found, activation, reads, [writes], format="saelens", metadata=metadata)]


def _check(config: dict[str, Any], path: Path) -> None:
    for name in ("normalize_activations", "reshape_activations"):
        if config.get(name, "none") != "none":
            raise InputError(f"{path}: {name} is {config[name]!r}; only 'none' is read (fold it in with SAELens first)")
    metadata = config.get("metadata") or {}
    for name, plain in (("activation_fn_str", "relu"), ("activation_fn", "relu"), ("finetuning_scaling_factor", False)):
        if config.get(name) not in (None, plain):
            raise InputError(f"{path}: {name} is {config[name]!r}, of an old SAELens; load and save it with version 6")
    if (head := metadata.get("hook_head_index", config.get("hook_head_index"))) is not None:
        raise InputError(f"{path}: it is of head {head} alone, which no site here is")
    if config.get("rescale_acts_by_decoder_norm"):
        raise InputError(f"{path}: rescale_acts_by_decoder_norm is on; fold it in with SAELens' fold_W_dec_norm first")


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write a directory that SAELens loads. `batch_topk` becomes `jumprelu`, as SAELens itself does it."""
    transcoder = files.one(transcoders, "saelens")
    spec = transcoder.spec
    kinds = ["relu", "jumprelu", "batch_topk"] + (["topk"] if spec.is_autoencoder else [])
    files.require(transcoder, "saelens", kinds, skip=not spec.is_autoencoder)
    tied = transcoder.b_in is not None and spec.is_autoencoder and torch.equal(transcoder.b_in, transcoder.b_dec)
    form = transcoder if tied else files.without_input_bias(transcoder)
    config: dict[str, Any] = {
        "architecture": _architecture(spec),
        "d_in": spec.d_in,
        "d_sae": spec.n_features,
        "dtype": str(form.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": tied,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(transcoder),
    }
    if not spec.is_autoencoder:
        config["d_out"] = spec.d_out
    if spec.activation.kind == "topk":
        config |= {"k": spec.activation.k, "rescale_acts_by_decoder_norm": False}
    files.write_weights(path / _WEIGHTS, files.weights_of(form, turned=["W_enc"]))
    files.write_json(path / _CONFIG, config)


def _architecture(spec: TranscoderSpec) -> str:
    kind = "jumprelu" if spec.activation.thresholded else spec.activation.kind
    if spec.is_autoencoder:
        return {kind: name for name, kind in _AUTOENCODERS.items()}[kind]
    return ("jumprelu_" if kind == "jumprelu" else "") + ("skip_" if spec.skip else "") + "transcoder"


def _metadata(transcoder: Transcoder) -> dict[str, Any]:
    """SAELens' own keys. Without a version of 6 or later it would take the file for an old one and rewrite it."""
    spec, provenance = transcoder.spec, transcoder.provenance
    known = provenance.get("metadata", {})
    settings = provenance.get("method", {})
    own = {
        "sae_lens_version": "6.54.12",
        "sae_lens_training_version": None,
        "model_name": provenance.get("model", {}).get("id"),
        "context_size": settings.get("text", {}).get("context"),
        "prepend_bos": True,
        "dataset_path": None,
        "model_from_pretrained_kwargs": {},
    }
    hooks = {
        "hook_name": hook_name(spec.reads),
        "hook_name_out": None if spec.is_autoencoder else hook_name(spec.writes[0]),
        "hook_head_index": None,
    }
    return own | known | hooks


def _is_theirs(path: Path) -> bool:
    return (path / _WEIGHTS).is_file()


FORMAT = Format(
    "saelens", "SAELens 6 folder: relu, jumprelu (batch_topk); autoencoders also topk", _is_theirs, read, write
)
