"""The project's own file: one `.safetensors` whose JSON header says which sites, which activation, where from."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgewise._errors import InputError
from edgewise.runs import atomic_path
from edgewise.transcoders._transcoder import Transcoder, TranscoderSpec

_SCHEMA = 1


def save(transcoder: Transcoder, path: str | Path) -> None:
    """Write a transcoder, whole or not at all. Raises `InputError` if it cannot be written."""
    header = {"schema": _SCHEMA, "spec": transcoder.spec.to_dict(), "provenance": transcoder.provenance}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in transcoder.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"edgewise.transcoder": json.dumps(header)})


def load(path: str | Path) -> Transcoder:
    """Read a transcoder that `save` wrote.

    Raises:
        InputError: there is no such file, or it is not one (or not a whole one).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a transcoder's .safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["edgewise.transcoder"])
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        if header["schema"] > _SCHEMA:
            raise InputError(f"{path}: written by a later edgewise (schema {header['schema']}); update to read it")
        transcoder = build(TranscoderSpec.from_dict(header["spec"]), tensors, path)
        transcoder.provenance, transcoder.name = header["provenance"], path.stem
    except InputError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a transcoder of edgewise, or not a whole one ({reason[:120]})") from error
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
