"""Circuits on the Hugging Face hub: one `.safetensors` file in a repository, with a page about it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.exchange._card import CARD, card

FILE = "circuit.safetensors"


def push(
    circuit: Circuit,
    repository: str,
    *,
    file: str = FILE,
    private: bool = False,
    token: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """Upload a circuit, making the repository if it is not there, and a model card where the repository has none.

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

    api = HfApi(token=token)
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
