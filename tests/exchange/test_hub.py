"""Pushing and pulling, against a hub that is a folder."""

import json
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
from edgewise.graph import Ablation, Graph, GraphSpec
from edgewise.runs import tensor_hash, write_tensors
from tests.tiny import refused

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

        def create_commit(self, repository: str, operations: list[Any], *, commit_message: str) -> Any:
            for each in operations:
                place = tmp_path / repository / each.path_in_repo
                if isinstance(each.path_or_fileobj, bytes):
                    place.write_bytes(each.path_or_fileobj)
                else:
                    shutil.copy(each.path_or_fileobj, place)
            return SimpleNamespace(commit_url=f"{repository}/commit/1")

    def download(repository: str, file: str, revision: str | None = None, token: str | None = None) -> str:
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


def test_a_card_that_somebody_wrote_or_changed_stays_and_our_own_goes_with_the_circuit(hub: Path):
    circuit, page = Circuit(GRAPH, torch.zeros(GRAPH.n_edges, dtype=torch.bool)), hub / "me" / "ioi" / "README.md"
    other = Circuit(GRAPH, torch.ones(GRAPH.n_edges, dtype=torch.bool))
    push(circuit, "me/ioi")
    push(other, "me/ioi")
    ours = page.read_text()
    assert f"{GRAPH.n_edges} of {GRAPH.n_edges} edges" in ours
    for text, file in (
        ("mine", "circuit.safetensors"),
        (f"{ours}mine", "circuit.safetensors"),
        (ours, "b.safetensors"),
    ):
        page.write_text(text)
        with pytest.warns(UserWarning, match="stays"):
            push(circuit, "me/ioi", file=file)
        assert page.read_text() == text


def test_settings_are_on_the_card_whole_and_what_is_cut_says_so(hub: Path):
    config = {f"setting_{number}": number for number in range(60)}
    said = {"method": {"name": "m" * 400, "config": config}}
    push(Circuit(GRAPH, torch.ones(GRAPH.n_edges), None, said), "me/ioi")
    text = (hub / "me" / "ioi" / "README.md").read_text()
    assert f"`{json.dumps(config)}`" in text and f"`{'m' * 300} …`" in text


def test_constants_of_removed_edges_go_along(hub: Path, tmp_path: Path):
    values = torch.arange(3.0)
    said = {"constants": tensor_hash(values)}
    circuit = Circuit(GRAPH, torch.ones(GRAPH.n_edges), None, said, Ablation("mean", source="means"))
    mine, other = tmp_path / "mine.safetensors", tmp_path / "other.safetensors"
    write_tensors(mine, {"constant.0": values}, {})
    write_tensors(other, {"constant.0": values + 1}, {})
    assert "give their file" in refused(lambda: push(circuit, "me/ioi"))
    assert "not the constants" in refused(lambda: push(circuit, "me/ioi", constants=other))
    assert "no such file" in refused(lambda: push(circuit, "me/ioi", constants=tmp_path / "none.safetensors"))
    assert not (hub / "me").exists()
    for file in ("circuit.safetensors", "ioi.safetensors"):
        push(circuit, f"me/{file[:3]}", file=file, constants=mine)
        pull(f"me/{file[:3]}", file=file)
        pull(f"me/{file[:3]}", file=file, constants=tmp_path / file[:3] / "constants.safetensors")
        assert (tmp_path / file[:3] / "constants.safetensors").read_bytes() == mine.read_bytes()
    assert (hub / "me" / "ioi" / "ioi-constants.safetensors").is_file()
    assert "`constants.safetensors`" in (hub / "me" / "cir" / "README.md").read_text()


def test_a_hub_that_refuses_is_one_line(hub: Path):
    circuit = Circuit(GRAPH, torch.zeros(GRAPH.n_edges, dtype=torch.bool))
    assert "no right" in refused(lambda: push(circuit, "closed/ioi"))
    assert "cannot be reached" in refused(lambda: push(circuit, "far/ioi"))
    assert "404" in refused(lambda: pull("me/none"))
    (hub / "me").mkdir()
    (hub / "me" / "circuit.safetensors").write_bytes(b"no circuit")
    assert "not a circuit" in refused(lambda: pull("me"))
