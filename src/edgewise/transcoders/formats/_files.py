"""What the readers and writers of other tools' files share: whole files, tensors by name, what a format can hold."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise import runs
from edgewise._errors import InputError
from edgewise.runs import atomic_path, write_atomically
from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec
from edgewise.transcoders.formats._site_names import NAMED

_OURS = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")}


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file. Raises `InputError` if it is missing, cut short or something else."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole .safetensors file ({reason[:120]})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `InputError` if it is missing or something else."""
    found = runs.read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found


def take(tensors: dict[str, Tensor], name: str, path: Path) -> Tensor:
    """A tensor by its name. Raises `InputError` if there is none."""
    if name not in tensors:
        raise InputError(f"{path}: holds no {name}; it holds {', '.join(sorted(tensors)) or 'nothing'}")
    return tensors[name]


def scalar(value: Any) -> Any:
    """The number of a tensor that is one; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def weights_in(
    tensors: dict[str, Tensor],
    path: Path,
    names: Mapping[str, str] = _OURS,
    *,
    turned: Sequence[str] = (),
    also: Sequence[str] = (),
) -> dict[str, Tensor]:
    """A transcoder's tensors from those of a file: what every one has, and `threshold` and `W_skip` where they are.

    `names`: theirs, where they are not ours; `turned`: which of ours it has the other way round; `also`: what else the
    reader takes of it. Raises `InputError` where one is missing, or where there is another, which would be passed over.
    """
    names = {**_OURS, **names}
    if other := sorted(tensors.keys() - {*names.values(), *also}):
        raise InputError(f"{path}: holds {other[0]}, which is not read here; what it changes would be lost")
    found = {ours: take(tensors, names[ours], path) for ours in ("W_enc", "b_enc", "W_dec", "b_dec")}
    found |= {ours: tensors[names[ours]] for ours in ("threshold", "W_skip") if names[ours] in tensors}
    return found | {ours: found[ours].T.contiguous() for ours in turned if ours in found}


def weights_of(form: Transcoder, names: Mapping[str, str] = _OURS, *, turned: Sequence[str] = ()) -> dict[str, Tensor]:
    """The inverse of `weights_in`, with a threshold for each feature; without `b_in`."""
    names = {**_OURS, **names}
    found: dict[str, Tensor] = {ours: getattr(form, ours) for ours in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if form.activation.thresholded:
        found["threshold"] = form.threshold.expand(form.n_features)
    if form.W_skip is not None:
        found["W_skip"] = form.W_skip
    return {names[ours]: x.T if ours in turned else x for ours, x in found.items()}


def rows_of(W_dec: Tensor, n_features: int) -> Tensor:
    """A decoder with a row per feature, whichever way it was stored."""
    return W_dec if W_dec.shape[0] == n_features else W_dec.T.contiguous()


def build(spec: TranscoderSpec, tensors: dict[str, Tensor], path: str | Path) -> Transcoder:
    """A transcoder of these tensors, checked for names, shapes and numbers; of the type that holds all of them exactly.

    Raises:
        InputError: a tensor is missing, has another shape than the sizes say, is of whole numbers, or holds NaN or
            infinity.
    """
    given = {name: tensor for name, tensor in tensors.items() if name != "threshold" or spec.activation.thresholded}
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"{path}: {name} is of {kind}; weights are floating-point numbers")
    types = {each.dtype for each in given.values()} or {torch.float32}
    transcoder = Transcoder(spec, dtype=reduce(torch.promote_types, types))
    wanted = transcoder.state_dict()
    if not spec.activation.thresholded:
        given["threshold"] = wanted["threshold"]
    if different := sorted(wanted.keys() ^ given.keys()):
        raise InputError(f"{path}: tensors {', '.join(different)} are missing or are not a {spec.activation}'s")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise InputError(f"{path}: {name} is {list(tensor.shape)}, wanted {list(wanted[name].shape)}")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds NaN or infinity; the file is spoiled or its training failed")
    transcoder.load_state_dict(given)
    return transcoder


def built(
    path: Path,
    tensors: dict[str, Tensor],
    activation: Activation,
    reads: Site,
    writes: Sequence[Site],
    exclude_special: bool = False,
    **provenance: Any,
) -> Transcoder:
    """A transcoder of a file's tensors, whose shapes give its sizes.

    Args:
        path: the file.
        tensors: named and turned as a `Transcoder`'s; `b_in` and `W_skip` where it has them.
        activation: the activation kind.
        reads: the site read.
        writes: the sites written.
        exclude_special: see `TranscoderSpec`.
        **provenance: what else the file says, beside its `format`.

    Raises:
        InputError: see `build`.
    """
    n_features, d_in = tensors["W_enc"].shape
    has_skip, has_b_in = "W_skip" in tensors, "b_in" in tensors
    d_out = len(tensors["b_dec"])
    sizes = d_in, d_out, n_features
    spec = TranscoderSpec(*sizes, activation, reads, tuple(writes), has_skip, has_b_in, exclude_special)
    transcoder = build(spec, tensors, path)
    transcoder.provenance = provenance
    return transcoder


def require(
    transcoder: Transcoder,
    name: str,
    activations: Sequence[str],
    *,
    rectified: bool = True,
    skip: bool = False,
    cross_layer: bool = False,
    autoencoder: bool = True,
    transcoders: bool = True,
    reads: Sequence[str] = NAMED,
    centred: Sequence[str] = (),
) -> TranscoderSpec:
    """Refuse to write what a format cannot hold, or would hold as something else. Raises `InputError`.

    Args:
        transcoder: what is to be written.
        name: the format's.
        activations: the kinds it has.
        rectified: whether its activations are never negative.
        skip: whether it has skip connections.
        cross_layer: whether it has them.
        autoencoder: whether it has them.
        transcoders: whether it has them.
        reads: the kinds of sites it can say are read.
        centred: the kinds of sites that are centred in it; all others are not.
    """
    spec = transcoder.spec
    lacks = None
    if spec.activation.kind not in activations or spec.activation.rectified != rectified:
        known = ", ".join(activations) + (" of positive values only" if rectified else " of values of any sign")
        lacks = f"{spec.activation} activation{'' if spec.activation.rectified else ' of any sign'} (it has {known})"
    elif spec.skip and not skip:
        lacks = "skip connection"
    elif len(spec.writes) > 1 and not cross_layer:
        lacks = "cross-layer decoder"
    elif spec.is_autoencoder and not autoencoder:
        lacks = "autoencoder"
    elif not spec.is_autoencoder and not transcoders:
        lacks = "transcoder"
    elif spec.reads.kind not in reads:
        lacks = f"name for {spec.reads} (it reads {', '.join(reads)})"
    elif wrong := next((s for s in (spec.reads, *spec.writes) if s.centred != (s.kind in centred)), None):
        lacks = f"name for {wrong}: it would say {replace(wrong, centred=not wrong.centred)}"
    if lacks:
        raise InputError(f"{name}: the format has no {lacks}; write another format, such as edgewise")
    return spec


def one(transcoders: Sequence[Transcoder], name: str) -> Transcoder:
    """The only one. Raises `InputError` if there are more."""
    if len(transcoders) != 1:
        raise InputError(f"{name}: a place holds one transcoder, and there are {len(transcoders)}; write one at a time")
    return transcoders[0]


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files want them: on the CPU, contiguous, sharing nothing."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def without_input_bias(transcoder: Transcoder) -> Transcoder:
    """The same function in a form that takes nothing off its input; itself if it has that form."""
    return transcoder if transcoder.b_in is None else transcoder.folded()


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a `.safetensors`, whole or not at all. Raises `InputError` if it cannot be written."""
    with atomic_path(path) as temporary:
        save_file(stored(tensors), temporary)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all. Raises `InputError` if it cannot be written."""
    write_atomically(path, json.dumps(values, indent=2) + "\n")
