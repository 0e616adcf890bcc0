"""The project's own file: one `.safetensors` whose JSON header says which sites, which activation, where from."""

from pathlib import Path

import torch

from edgewise._errors import InputError
from edgewise.runs import reading_tensors, write_tensors
from edgewise.transcoders._transcoder import Transcoder, TranscoderSpec

_SCHEMA = 1
HEADER = "edgewise.transcoder"


def save(transcoder: Transcoder, path: str | Path) -> None:
    """Write a transcoder, whole or not at all. Raises `InputError` if it cannot be written."""
    header = {"schema": _SCHEMA, "spec": transcoder.spec.to_dict(), "provenance": transcoder.provenance}
    write_tensors(path, transcoder.state_dict(), header, entry=HEADER)


def load(path: str | Path) -> Transcoder:
    """Read a transcoder that `save` wrote.

    Raises:
        InputError: there is no such file, or it is not one (or not a whole one).
    """
    path = Path(path)
    what, instead = "a transcoder of edgewise, or not a whole one", "give a transcoder's .safetensors"
    with reading_tensors(path, what, instead, entry=HEADER, schema=_SCHEMA) as (header, tensors):
        transcoder = build(TranscoderSpec.from_dict(header["spec"]), tensors, path)
        transcoder.provenance, transcoder.name = header["provenance"], path.stem
    return transcoder


def build(spec: TranscoderSpec, tensors: dict[str, torch.Tensor], path: str | Path) -> Transcoder:
    """A transcoder of these tensors, checked for names, shapes and numbers.

    Raises:
        InputError: a tensor is missing, has another shape than the sizes say, or holds NaN or infinity.
    """
    dtype = tensors["W_enc"].dtype if "W_enc" in tensors else torch.float32
    if not dtype.is_floating_point:
        raise InputError(f"{path}: W_enc is of {str(dtype).removeprefix('torch.')}; weights are floating-point numbers")
    transcoder = Transcoder(spec, dtype=dtype)
    wanted = transcoder.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name != "threshold" or spec.activation.thresholded}
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
