"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors`; its cross-layer sets are one file a layer).

1 reads after the norm but before its gain, 2 after it; both write what the MLP adds after the post-norm, and neither
takes a bias off the input.
"""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs import Keys, Only, atomic_path, names_in, yes_or_no
from edgewise.transcoders import Activation, Site, Transcoder
from edgewise.transcoders.formats import _files as files
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import NAME_THEM, check_told, layer_of, sites_for

KEYS = Keys(
    "Gemma Scope 2: `config.json`",
    honoured={
        "hf_hook_point_in": "its layer, and whether it reads an MLP's input; an autoencoder is refused until its "
        "sites are named",
        "hf_hook_point_out": "likewise what it writes",
        "affine_connection": "must agree with the tensors",
    },
    refused={"architecture": Only(("jump_relu", "jumprelu"), "only JumpReLU is read")},
    irrelevant={"the tensors tell, or for people": ("width", "l0", "type", "model_name")},
)
_NAMES_2 = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": "affine_skip_connection"}
_TURNED = ("W_enc", "W_skip")
_WHOLE, _PART = "params.safetensors", "params_layer_{}.safetensors"
MOST_PACKED, MOST_UNPACKED = 20, 64 << 20
"""Up to how many times its own size an archive may unpack, and how many bytes in any case."""


def read_npz(path: Path, sites: Sites) -> list[Transcoder]:
    """Read Gemma Scope 1: a `.npz` file, or the folder of a `params.npz`."""
    path = path / "params.npz" if path.is_dir() else path
    try:
        _check_size(path)
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    except Exception as error:  # numpy raises what a damaged header leads to: SyntaxError, TokenError, zlib's
        raise InputError(f"{path}: not a whole .npz file ({' '.join(str(error).split())[:120]})") from error
    tensors = files.weights_in(arrays, path, turned=_TURNED)
    _check_transcoder(path, _config(path), sites)
    reads, writes = sites_for(path, "mlp_normalized", "mlp_out", sites)
    return [files.built(path, tensors, Activation("jumprelu"), reads, (writes,), format="gemma-scope")]


def _check_size(path: Path) -> None:
    """Refuse an archive that unpacks to far more than weights ever do. Raises `ValueError`."""
    if not zipfile.is_zipfile(path):
        raise ValueError("cut short, or no archive")
    with zipfile.ZipFile(path) as archive:
        whole = sum(entry.file_size for entry in archive.infolist())
    if whole > max(MOST_UNPACKED, MOST_PACKED * path.stat().st_size):
        raise ValueError(f"it claims to unpack to {whole >> 20:,} MiB")


def write_npz(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write a `.npz` file (into a folder: `params.npz`)."""
    transcoder = files.one(transcoders, "gemma-scope")
    check_told(path, transcoder.spec.reads.layer)
    path = path if path.suffix == ".npz" else path / "params.npz"
    tensors = files.stored(files.weights_of(_required(transcoder, "gemma-scope"), turned=_TURNED))
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(path: Path, sites: Sites) -> list[Transcoder]:
    """Read Gemma Scope 2: a `.safetensors`, the folder of a `params.safetensors`, or a cross-layer set's folder."""
    if path.is_file():
        return [_read(path, sites)]
    if (path / _WHOLE).is_file():
        return [_read(path / _WHOLE, sites)]
    files = sorted(path.glob("*.safetensors"), key=lambda file: (_layer(file), file.name))
    if not files or [_layer(file) for file in files] != list(range(len(files))):
        raise InputError(f"{path}: holds neither params.safetensors nor one file for each layer from 0 on")
    config = _config(files[0])
    return [_read_part(file, layer, len(files), sites, config) for layer, file in enumerate(files)]


def _config(path: Path) -> dict[str, Any]:
    """The `config.json` beside a file, its keys checked; empty where there is none."""
    place = path.parent / "config.json"
    config = files.read_json(place) if place.is_file() else {}
    KEYS.check(place, config)
    return config


def _check_transcoder(path: Path, config: dict[str, Any], given: Sites) -> None:
    """Refuse an autoencoder, whose file has the same tensors: `config.json` tells one (Gemma Scope 2), or the names of
    the folders (both).
    """
    if given.reads is not None and given.writes is not None:
        return
    if hook := config.get("hf_hook_point_in"):
        of_mlp = str(hook).endswith("pre_feedforward_layernorm.output") and config.get("hf_hook_point_out")
        if not of_mlp:
            raise InputError(f"{path}: it reads {hook!r}, which is no MLP's input: an autoencoder; {NAME_THEM}")
        return
    words = {word for part in path.parts for word in re.split(r"[-_.]", part.lower())}
    is_transcoder = bool(words & {"transcoder", "transcoders", "clt"})
    if "gemma" in words and words & {"res", "resid", "att", "attn", "mlp"} and not is_transcoder:
        raise InputError(f"{path}: by its folder's name an autoencoder of Gemma Scope; {NAME_THEM}")


def _layer(path: Path) -> int:
    layer = layer_of(path.stem)
    return -1 if layer is None else layer


def _read(path: Path, sites: Sites) -> Transcoder:
    config = _config(path)
    _check_transcoder(path, config, sites)
    if (told := layer_of(str(config.get("hf_hook_point_in", "")))) is not None:  # goes before a folder's name
        sites = replace(sites, reads=sites.reads or Site("mlp_in", told))
    reads, writes = sites_for(path, "mlp_in", "mlp_out", sites)
    tensors = _tensors(path, config)
    return files.built(path, tensors, Activation("jumprelu"), reads, (writes,), format="gemma-scope-2")


def _tensors(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """A file's tensors. Raises `InputError` where `config.json` says something else of them."""
    tensors = files.weights_in(files.tensors_of(path), path, _NAMES_2, turned=_TURNED)
    said = config.get("affine_connection")
    if said is not None and yes_or_no(path, "affine_connection", said) != ("W_skip" in tensors):
        raise InputError(f"{path}: affine_connection is {said}, and its tensors say otherwise")
    return tensors


def _read_part(path: Path, layer: int, n_layers: int, sites: Sites, config: dict[str, Any]) -> Transcoder:
    tensors = _tensors(path, config)
    decoder = tensors["W_dec"]
    if decoder.ndim != 3 or decoder.shape[1] != n_layers:
        raise InputError(f"{path}: w_dec is {list(decoder.shape)}, wanted [F, {n_layers}, D] (is a layer missing?)")
    if bool(decoder[:, :layer].any()):
        raise InputError(f"{path}: w_dec writes to layers below {layer}, which it reads; zeros are wanted there")
    tensors["W_dec"] = decoder[:, layer:].flatten(1)
    named = [sites.in_set(each, n_layers) for each in range(layer, n_layers)]
    reads = named[0].reads or Site("mlp_in", layer)
    writes = tuple(each.writes or Site("mlp_out", later) for later, each in enumerate(named, layer))
    return files.built(path, tensors, Activation("jumprelu"), reads, writes, format="gemma-scope-2")


def write(transcoders: Sequence[Transcoder], path: Path) -> None:
    """Write a `.safetensors` file (into a folder: `params.safetensors`), or a cross-layer set into a folder."""
    ordered = sorted(transcoders, key=lambda each: each.spec.reads.layer)
    n_layers = len(ordered)
    if n_layers == 1:
        check_told(path, ordered[0].spec.reads.layer)
        tensors = files.weights_of(_required(ordered[0], "gemma-scope-2"), _NAMES_2, turned=_TURNED)
        files.write_weights(path if path.suffix == ".safetensors" else path / _WHOLE, tensors)
        return
    for layer, each in enumerate(ordered):
        if each.spec.reads.layer != layer or len(each.spec.writes) != n_layers - layer:
            raise InputError("gemma-scope-2: several transcoders must be one whole cross-layer set from layer 0 on")
        _require(each, "gemma-scope-2", cross_layer=True)  # all before any is written
    for layer, each in enumerate(ordered):
        tensors = files.weights_of(files.without_input_bias(each), _NAMES_2, turned=_TURNED)
        decoder = each.W_dec.unflatten(1, (n_layers - layer, -1))
        tensors["w_dec"] = torch.cat([decoder.new_zeros(len(decoder), layer, decoder.shape[2]), decoder], 1)
        files.write_weights(path / _PART.format(layer), tensors)


def _left(transcoders: Sequence[Transcoder], path: Path) -> list[Path]:
    n_layers = len(transcoders)
    written = {_WHOLE} if n_layers == 1 else {_PART.format(layer) for layer in range(n_layers)}
    return [file for file in path.glob("*.safetensors") if file.name not in written and _is_second(file)]


def _required(transcoder: Transcoder, name: str) -> Transcoder:
    """The form in which a transcoder is written. Raises `InputError` for one that these files cannot hold."""
    _require(transcoder, name)
    return files.without_input_bias(transcoder)


def _require(transcoder: Transcoder, name: str, cross_layer: bool = False) -> None:
    files.require(
        transcoder,
        name,
        ["jumprelu", "batch_topk"],
        skip=name == "gemma-scope-2",
        cross_layer=cross_layer,
        autoencoder=False,
        reads=["mlp_in" if name == "gemma-scope-2" else "mlp_normalized"],
    )


def _is_second(path: Path) -> bool:
    if path.is_dir():
        return (path / _WHOLE).is_file() or any(map(_is_second, path.glob("*.safetensors")))
    return path.suffix == ".safetensors" and "w_enc" in names_in(path)


def _is_first(path: Path) -> bool:
    return path.suffix == ".npz" or (path / "params.npz").is_file()


FORMAT = Format("gemma-scope", "Gemma Scope 1 params.npz: jumprelu", _is_first, read_npz, write_npz)
FORMAT_2 = Format(
    "gemma-scope-2",
    "Gemma Scope 2 params.safetensors, or a cross-layer folder: jumprelu",
    _is_second,
    read,
    write,
    _left,
)
