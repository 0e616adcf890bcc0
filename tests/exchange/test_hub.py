"""Pushing and pulling, against a hub that is a folder."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.exchange import pull, push
from edgewise.graph import Graph, GraphSpec
from tests.discovery.toys import refused

GRAPH = Graph(GraphSpec(1, 2, 2))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    class Api:
        def __init__(self, token: str | None) -> None:
            pass

        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
            if repository.startswith("closed/"):
                raise OSError("no right to write here\nsecond line")
            if repository.startswith("far/"):  # as the client's own errors, which are of no known kind
                raise type("ConnectError", (Exception,), {})("cannot be reached")
            (tmp_path / repository).mkdir(parents=True, exist_ok=exist_ok)

        def upload_file(self, path_or_fileobj: Path, path_in_repo: str, repo_id: str) -> Any:
            shutil.copy(path_or_fileobj, tmp_path / repo_id / path_in_repo)
            return SimpleNamespace(commit_url=f"{repo_id}/commit/1")

    def download(repository: str, file: str, revision: str | None, token: str | None) -> str:
        if not (tmp_path / repository / file).is_file():
            raise OSError("404: not there\nsecond line")
        return str(tmp_path / repository / file)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path


def test_what_is_pushed_is_what_is_pulled(hub: Path):
    draw = torch.rand(GRAPH.n_edges, generator=torch.Generator().manual_seed(0))
    circuit = Circuit(GRAPH, draw < 0.5, draw, {"method": {"name": "toy"}})
    assert push(circuit, "me/ioi") == "me/ioi/commit/1"
    found = pull("me/ioi")
    assert found.graph == GRAPH and torch.equal(found.kept, circuit.kept) and found.provenance == circuit.provenance


def test_a_hub_that_refuses_is_one_line(hub: Path):
    circuit = Circuit(GRAPH, torch.zeros(GRAPH.n_edges, dtype=torch.bool))
    assert "no right" in refused(lambda: push(circuit, "closed/ioi"))
    assert "cannot be reached" in refused(lambda: push(circuit, "far/ioi"))
    assert "404" in refused(lambda: pull("me/none"))
    (hub / "me").mkdir()
    (hub / "me" / "circuit.safetensors").write_bytes(b"no circuit")
    assert "not a circuit" in refused(lambda: pull("me"))
