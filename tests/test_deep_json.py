"""JSON that nests deeper than Python follows is refused in one line, whatever reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise import InputError
from edgewise.evaluation import SizeCurve
from edgewise.runs import read_json
from edgewise.tracr import Truth
from edgewise.transcoders import formats
from edgewise.transcoders.training import CachedActivations
from edgewise.viewer import Evidence
from edgewise.viewer._read import read_evaluation

READERS: dict[str, Callable[[Path], Any]] = {
    "foreign file": read_json,
    "transcoder's configuration": formats.read_json,
    "curve": SizeCurve.load,
    "truth": Truth.load,
    "evidence": Evidence.load,
    "evaluation": read_evaluation,
    "cache": lambda path: CachedActivations(path.parent),
}


@pytest.mark.parametrize("what", READERS)
def test_it_is_refused(what: str, tmp_path: Path):
    path = tmp_path / "activations.json"  # as a cache has it
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match=str(tmp_path)):
        READERS[what](path)
