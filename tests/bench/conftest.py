"""What the benches of the tests run on."""

from pathlib import Path

import pytest

from tests.bench.toys import save_model, save_pairs


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` and `pairs.jsonl`."""
    folder = tmp_path_factory.mktemp("bench")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder
