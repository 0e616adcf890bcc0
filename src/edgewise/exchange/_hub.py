"""Circuits on the Hugging Face hub: one `.safetensors` file in a repository, with a page about it."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.exchange._card import CARD, card

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
) -> str:
    """Upload a circuit, making the repository if it is not there, and a model card where the repository has none. Of
    this machine's paths, as of a model or transcoders in a folder, only the last part goes along.

    Args:
        circuit: the circuit.
        repository: `owner/name`.
        file: what to call it there.
        private: whether a new repository is private.
        token: access token; that of `hf auth login` if None.
        evaluation: what `edgewise evaluate` wrote of it (`evaluation.json`), for the card.

    Returns:
        The address of the commit.

    Raises:
        edgewise.InputError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api, circuit = HfApi(token=token), replace(circuit, provenance=_without_folders(circuit.provenance))
    evaluation = None if evaluation is None else _without_folders(evaluation)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        circuit.save(path)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if not api.file_exists(repository, CARD):  # one that somebody wrote stays
                text = card(circuit, repository, file, evaluation).encode()
                api.upload_file(path_or_fileobj=text, path_in_repo=CARD, repo_id=repository)
            commit = api.upload_file(path_or_fileobj=path, path_in_repo=file, repo_id=repository)
        except Exception as error:  # the hub client raises many kinds; the user needs one line
            raise InputError(f"{repository}: cannot upload ({_first_line(error)})") from error
    return str(commit.commit_url)


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


def pull(repository: str, *, file: str = FILE, revision: str | None = None, token: str | None = None) -> Circuit:
    """Download a circuit.

    Args:
        repository: `owner/name`.
        file: its name there.
        revision: branch, tag or commit.
        token: access token; that of `hf auth login` if None.

    Raises:
        edgewise.InputError: there is no such file, it is no circuit, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(repository, file, revision=revision, token=token)
    except Exception as error:  # the hub client raises many kinds; the user needs one line
        raise InputError(f"{repository}: cannot download {file} ({_first_line(error)})") from error
    return Circuit.load(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
