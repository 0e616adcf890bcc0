"""Fixtures of the command line's tests: the command line, a tiny model, pairs, and a circuit found on them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from edgewise.cli import main
from tests.cli.commands import NAMES, WORDS, Cli, find
from tests.tiny import save_gpt2, word_tokenizer


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    logging.enable_progress_bar()  # as in a new process; a command of an earlier test may have left it off
    return Cli(capfd, monkeypatch)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a tokenizer of whole words, as `save_pretrained` leaves them."""
    folder = tmp_path_factory.mktemp("model")
    save_gpt2(folder, word_tokenizer(WORDS), n_positions=32)
    return folder


@pytest.fixture
def other_weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with weights of its own."""
    folder = tmp_path_factory.mktemp("other")
    module = GPT2LMHeadModel.from_pretrained(model)
    with torch.no_grad():
        next(module.parameters()).mul_(1.1)
    module.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    return folder


@pytest.fixture
def shallow(model: Path, tmp_path: Path) -> Path:
    """A model of one layer less, with the same tokenizer."""
    shape: dict[str, Any] = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(vocab_size=len(WORDS) + 1, bos_token_id=0, eos_token_id=0, **shape)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    return tmp_path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in _records()))
    return path


def _records() -> Iterator[dict[str, str]]:
    for i, one in enumerate(NAMES):
        for other in NAMES[:i]:
            clean, corrupted = (f"{a} ran to the {b} sat on the" for a, b in ((one, other), (other, one)))
            yield {"clean": clean, "corrupted": corrupted, "answer": " mat", "wrong_answer": " rug"}


@pytest.fixture(scope="session")
def found(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A circuit, found once for all tests that only read it."""
    out = tmp_path_factory.mktemp("found")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgewise", *map(str, find(model, pairs, out, "--method", "eap"))])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return out / "circuit.safetensors"
