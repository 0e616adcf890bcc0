"""sparsify directories: per module `cfg.json` and `sae.safetensors`, alone or in a folder by the modules' names.

Its transcoders take nothing off the input; its autoencoders take off `b_dec`. (Transcoders saved before February 2025
also took off `b_dec`; nothing in the file tells them apart.)
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgewise._errors import InputError
from edgewise.runs import atomic_path, write_atomically
from edgewise.transcoders._activation import Activation
from edgewise.transcoders._transcoder import Transcoder, TranscoderSpec
from edgewise.transcoders.formats._foreign import (
    Sites,
    autoencoder_site,
    layer_of,
    named_site,
    require,
    sites_for,
    stored,
    take,
    tensors_of,
)
from edgewise.transcoders.formats._native import build
from edgewise.transcoders.formats._saelens import read_json

_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"


def found_in(path: Path) -> list[Path]:
    """The folder itself, or those in it, that hold a sparse coder."""
    if (path / _WEIGHTS).is_file():
        return [path]
    return sorted((each.parent for each in path.glob(f"*/{_WEIGHTS}")), key=lambda each: (len(each.name), each.name))


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a directory, or all the directories in a folder."""
    folders = found_in(path)
    if not folders:
        raise InputError(f"{path}: holds no {_WEIGHTS}, nor does a folder in it")
    return [_read(folder, sites) for folder in folders]


def _read(path: Path, sites: Sites) -> Transcoder:
    config, tensors = read_json(path / _CONFIG), tensors_of(path / _WEIGHTS)
    if (kind := config.get("activation", "topk")) != "topk":
        raise InputError(f"{path}: activation {kind!r} is not read; topk is")
    if config.get("signed"):
        raise InputError(f"{path}: signed activations are not read")
    is_transcoder = bool(config.get("transcode", False))
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    found = {ours: take(tensors, theirs, path) for ours, theirs in names.items()}
    if "W_skip" in tensors:
        found["W_skip"] = tensors["W_skip"]
    if not is_transcoder:
        found["b_in"] = found["b_dec"].clone()
    module = path.name if layer_of(path.name) is not None else None
    reads = sites.reads or named_site(path, module, output=not is_transcoder)
    if is_transcoder:
        known = Sites(reads, sites.writes or named_site(path, module, output=True))
        reads, writes = sites_for(path, "mlp_in", "mlp_out", known)
    else:
        reads = writes = autoencoder_site(path, reads)
    n_features, d_in = found["W_enc"].shape
    spec = TranscoderSpec(
        d_in,
        found["b_dec"].shape[0],
        n_features,
        Activation("topk", int(config["k"])),
        reads,
        (writes,),
        "W_skip" in found,
        not is_transcoder,
    )
    transcoder = build(spec, found, path)
    transcoder.provenance = {"format": "sparsify", "config": config}
    return transcoder


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write one directory, or for several a folder of them named after their modules (`layers.8.mlp`)."""
    for each in transcoders:
        kind = "mlp_out" if each.spec.is_autoencoder else "mlp_in"
        require(each, "sparsify", ["topk"], skip=True, reads=[kind])
    for each in transcoders:
        _write(each, path if len(transcoders) == 1 else path / f"layers.{each.spec.reads.layer}.mlp")


def _write(transcoder: Transcoder, path: Path) -> None:
    spec = transcoder.spec
    if spec.is_autoencoder:
        form = transcoder.folded(transcoder.b_dec)
    else:
        form = transcoder if transcoder.b_in is None else transcoder.folded()
    tensors = {
        "encoder.weight": form.W_enc,
        "encoder.bias": form.b_enc,
        "W_dec": form.W_dec,
        "b_dec": form.b_dec,
    }
    if form.W_skip is not None:
        tensors["W_skip"] = form.W_skip
    norms = form.W_dec.norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, spec.n_features // spec.d_in),
        "normalize_decoder": bool(torch.allclose(norms, torch.ones_like(norms), atol=1e-3)),
        "num_latents": spec.n_features,
        "k": spec.activation.k,
        "multi_topk": False,
        "skip_connection": spec.skip,
        "transcode": not spec.is_autoencoder,
        "d_in": spec.d_in,
    }
    with atomic_path(path / _WEIGHTS) as temporary:
        save_file(stored(tensors), temporary)
    write_atomically(path / _CONFIG, json.dumps(config, indent=2) + "\n")
