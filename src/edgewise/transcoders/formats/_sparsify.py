"""sparsify directories: per module `cfg.json` and `sae.safetensors`, alone or in a folder by the modules' names.

Its transcoders take nothing off the input; its autoencoders take off `b_dec`. (Transcoders saved before February 2025
also took off `b_dec`; nothing in the file tells them apart.)
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from edgewise._errors import InputError
from edgewise.transcoders import Activation, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import layer_of, sites_named

_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}


def _found_in(path: Path) -> list[Path]:
    """The folder itself, or those in it, that hold a sparse coder."""
    if (path / _WEIGHTS).is_file():
        return [path]
    return sorted((each.parent for each in path.glob(f"*/{_WEIGHTS}")), key=lambda each: (len(each.name), each.name))


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read a directory, or all the directories in a folder."""
    folders = _found_in(path)
    if not folders:
        raise InputError(f"{path}: holds no {_WEIGHTS}, nor does a folder in it")
    return [_read(folder, sites) for folder in folders]


def _read(path: Path, sites: Sites) -> Transcoder:
    config, tensors = files.read_json(path / _CONFIG), files.tensors_of(path / _WEIGHTS)
    if (kind := config.get("activation", "topk")) != "topk":
        raise InputError(f"{path}: activation {kind!r} is not read; topk is")
    if config.get("signed"):
        raise InputError(f"{path}: signed activations are not read")
    is_transcoder = bool(config.get("transcode", False))
    found = files.weights_in(tensors, path, _NAMES)
    if not is_transcoder:
        found["b_in"] = found["b_dec"].clone()
    module = path.name if layer_of(path.name) is not None else None
    reads, writes = sites_named(path, sites, module, module, autoencoder=not is_transcoder)
    return files.built(
        path, found, Activation("topk", int(config["k"])), reads, [writes], format="sparsify", config=config
    )


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write one directory, or for several a folder of them named after their modules (`layers.8.mlp`)."""
    for each in transcoders:
        kind = "mlp_out" if each.spec.is_autoencoder else "mlp_in"
        files.require(each, "sparsify", ["topk"], skip=True, reads=[kind])
    for each in transcoders:
        _write(each, path if len(transcoders) == 1 else path / f"layers.{each.spec.reads.layer}.mlp")


def _write(transcoder: Transcoder, path: Path) -> None:
    spec = transcoder.spec
    form = transcoder.folded(transcoder.b_dec) if spec.is_autoencoder else files.without_input_bias(transcoder)
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
    files.write_weights(path / _WEIGHTS, files.weights_of(form, _NAMES))
    files.write_json(path / _CONFIG, config)


FORMAT = Format("sparsify", "sparsify folder: topk", lambda path: bool(_found_in(path)), read, write)
