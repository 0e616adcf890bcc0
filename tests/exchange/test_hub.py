"""Pushing and pulling, against a hub that is a folder."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

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

        def file_exists(self, repository: str, name: str) -> bool:
            return (tmp_path / repository / name).is_file()

        def upload_file(self, path_or_fileobj: Path | bytes, path_in_repo: str, repo_id: str) -> Any:
            place = tmp_path / repo_id / path_in_repo
            if isinstance(path_or_fileobj, bytes):
                place.write_bytes(path_or_fileobj)
            else:
                shutil.copy(path_or_fileobj, place)
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


def test_a_card_says_what_the_circuit_is_and_how_it_was_judged(hub: Path):
    kept = torch.ones(GRAPH.n_edges, dtype=torch.bool)
    said = {
        "model": {"id": "owner/model", "weights_hash": "ab12"},
        "task": {"name": "`ioi` | <b>bold</b>\n# no heading"},
        "method": {"name": "eap", "config": {"pairs": 3}},
    }
    judged = {"n": 5, "metrics": {"kl": {"value": 0.25, "low": 0.2, "high": 0.3, "full": 0.0, "random": None}}}
    push(Circuit(GRAPH, kept, None, said), "me/ioi", evaluation=judged)
    text = (hub / "me" / "ioi" / "README.md").read_text()
    front, body = text.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["base_model"] == "owner/model"
    assert f"{GRAPH.n_edges:,} of {GRAPH.n_edges:,} edges" in body and '`{"pairs": 3}`' in body and "`ab12`" in body
    assert "| `kl` | 0.250 | 0.000 | 0.200 to 0.300 |" in body
    assert 'ew.exchange.pull("me/ioi", file="circuit.safetensors")' in body
    # What a file says of itself is code, on one line: no heading, no cell, no HTML of its own.
    assert "`'ioi' \\| <b>bold</b> # no heading`" in body
    assert [line for line in body.splitlines() if line.startswith("# ")] == [body.splitlines()[1]]


def test_folders_of_this_machine_stay_here(hub: Path):
    said = {
        "model": {"id": "/home/anna/models/own.gguf"},
        "candidates": {"features": {"transcoders": ["/data/sets/layer5", "~/sets/layer6", "owner/name"], "n": 3}},
        "task": {"arguments": {"path": "../anna/pairs.jsonl", "templates": ["/usr/{a} is", "~{b}"]}},
    }
    judged = {"metrics": {}, "conditions": {"model": {"id": "/home/anna/models/own.gguf"}}}
    push(Circuit(GRAPH, torch.ones(GRAPH.n_edges), None, said), "me/own", evaluation=judged)
    found = pull("me/own").provenance
    assert found["model"] == {"id": "own.gguf"} and "id" in found["model"]
    assert found["task"]["arguments"] == {"path": "pairs.jsonl", "templates": ["/usr/{a} is", "~{b}"]}
    assert found["candidates"]["features"] == {"transcoders": ["layer5", "layer6", "owner/name"], "n": 3}
    assert (
        "anna" not in (hub / "me/own/README.md").read_text() and "`own.gguf`" in (hub / "me/own/README.md").read_text()
    )
    assert said["model"]["id"].startswith("/home"), "the circuit at hand is as it was"


def test_a_card_that_somebody_wrote_stays(hub: Path):
    (hub / "me" / "ioi").mkdir(parents=True)
    (hub / "me" / "ioi" / "README.md").write_text("mine")
    push(Circuit(GRAPH, torch.zeros(GRAPH.n_edges, dtype=torch.bool)), "me/ioi")
    assert (hub / "me" / "ioi" / "README.md").read_text() == "mine"


def test_a_hub_that_refuses_is_one_line(hub: Path):
    circuit = Circuit(GRAPH, torch.zeros(GRAPH.n_edges, dtype=torch.bool))
    assert "no right" in refused(lambda: push(circuit, "closed/ioi"))
    assert "cannot be reached" in refused(lambda: push(circuit, "far/ioi"))
    assert "404" in refused(lambda: pull("me/none"))
    (hub / "me").mkdir()
    (hub / "me" / "circuit.safetensors").write_bytes(b"no circuit")
    assert "not a circuit" in refused(lambda: pull("me"))
