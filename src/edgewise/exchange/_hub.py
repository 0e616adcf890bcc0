"""Circuits on the Hugging Face hub: one `.safetensors` file in a repository, with the constants of its removed edges
where it has some, and a page about it.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.exchange._card import CARD, card, is_own
from edgewise.runs import atomic_path, reading_tensors, tensor_hash

FILE = "circuit.safetensors"
_PLACES = ("id", "path", "transcoders")
"""Keys of a circuit's record whose values may be places."""


def push(
    circuit: Circuit,
    repository: str,
    *,
    file: str = FILE,
    private: bool = False,
    token: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    constants: str | Path | None = None,
) -> str:
    """Upload a circuit in one commit, making the repository if it is not there, with a model card where the repository
    has none, or has the one that an earlier push of this file wrote; any other stays, with a warning. Of this machine's
    paths, as of a model or transcoders in a folder, only the last part goes along.

    Args:
        circuit: the circuit.
        repository: `owner/name`.
        file: what to call it there.
        private: whether a new repository is private.
        token: access token; that of `hf auth login` if None.
        evaluation: what `edgewise evaluate` wrote of it (`evaluation.json`), for the card.
        constants: the file of the constants that its removed edges carry (`save_constants`), which an ablation by means
            or learned constants needs.

    Returns:
        The address of the commit.

    Raises:
        edgewise.InputError: the circuit needs constants, and there are none or others than it was found with; the hub
            refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    needed = _constants_file(circuit, file)
    beside: dict[str, Path | bytes] = {} if needed is None else {needed: _checked(circuit, constants)}
    api, circuit = HfApi(token=token), replace(circuit, provenance=_without_folders(circuit.provenance))
    evaluation = None if evaluation is None else _without_folders(evaluation)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        circuit.save(path)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            added: dict[str, Path | bytes] = {file: path, **beside}
            if not api.file_exists(repository, CARD) or is_own(
                Path(hf_hub_download(repository, CARD, token=token)).read_bytes().decode(errors="replace"), file
            ):
                added[CARD] = card(circuit, repository, file, needed, evaluation).encode()
            operations = [CommitOperationAdd(name, content) for name, content in added.items()]
            commit = api.create_commit(repository, operations, commit_message=f"{file}, by edgewise")
        except Exception as error:  # the hub client raises many kinds; the user needs one line
            raise InputError(f"{repository}: cannot upload ({_first_line(error)})") from error
    if CARD not in added:
        warnings.warn(f"{repository}: the {CARD} there is not as `push` wrote it of {file}, and stays", stacklevel=2)
    return str(commit.commit_url)


def _constants_file(circuit: Circuit, file: str) -> str | None:
    """What the constants of a circuit's removed edges are called on the hub; None where these carry none."""
    ablation, path = circuit.stated_ablation, PurePosixPath(file)
    if ablation is None or not ablation.takes_constants:
        return None
    return str(path.with_name("constants.safetensors" if path.name == FILE else f"{path.stem}-constants.safetensors"))


def _checked(circuit: Circuit, path: str | Path | None) -> Path:
    """The file of a circuit's constants. Raises `InputError` where it is none, or has others than the circuit's."""
    if path is None:
        raise InputError(f"push: under {circuit.ablation_kind} ablation removed edges carry constants; give their file")
    instead = "give the constants.safetensors that `edgewise find` wrote beside the circuit"
    with reading_tensors(path, "the constants of an ablation", instead) as (_, found):
        known = tensor_hash(*(found[f"constant.{number}"] for number in range(len(found))))
    if circuit.provenance.get("constants") not in (None, known):
        raise InputError(f"{path}: not the constants that the circuit was found with; {instead}")
    return Path(path)


def _without_folders(value: Any, place: bool = False) -> Any:
    """Plain values, with only the last part of places on this machine, of a model, a task's file or transcoders."""
    if isinstance(value, Mapping):
        return {name: _without_folders(each, name in _PLACES) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(each, place) for each in value]
    if not place or not isinstance(value, str):
        return value
    here = PurePath(value).is_absolute() or value.startswith(("~", ".")) or os.path.exists(value)
    return PurePath(value).name or value if here else value


def pull(
    repository: str,
    *,
    file: str = FILE,
    revision: str | None = None,
    token: str | None = None,
    constants: str | Path | None = None,
) -> Circuit:
    """Download a circuit.

    Args:
        repository: `owner/name`.
        file: its name there.
        revision: branch, tag or commit.
        token: access token; that of `hf auth login` if None.
        constants: where to write the constants that its removed edges carry, if they carry some (`load_constants` reads
            them); None leaves them there.

    Raises:
        edgewise.InputError: there is no such file, it is no circuit, the hub cannot be reached, or the constants cannot
            be written.
    """
    from huggingface_hub import hf_hub_download

    def downloaded(name: str) -> Path:
        try:
            return Path(hf_hub_download(repository, name, revision=revision, token=token))
        except Exception as error:  # the hub client raises many kinds; the user needs one line
            raise InputError(f"{repository}: cannot download {name} ({_first_line(error)})") from error

    circuit = Circuit.load(downloaded(file))
    needed = None if constants is None else _constants_file(circuit, file)
    if constants is not None and needed is not None:
        try:
            path = downloaded(needed)
        except InputError as error:
            if "constants" in circuit.provenance:
                raise
            warnings.warn(f"{error}; the circuit is of a version that sent none along", stacklevel=2)
            return circuit
        with atomic_path(constants) as temporary:
            shutil.copyfile(path, temporary)
    return circuit


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
