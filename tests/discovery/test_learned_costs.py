"""What learned methods say that they took: their steps, their start and their validation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.discovery import edge_pruning, learn_ranking
from edgewise.discovery._ranking import RankingLearner
from tests.discovery.toys import RANKING, Killed, quiet, random_task, stop, toy_engine

VALIDATED = replace(RANKING, largest=0.3, steps=12, patience=2, validate_every=2, validation_examples=3, smallest=0.1)


@pytest.mark.parametrize("stops", [False, True])
def test_validation_is_in_the_cost_also_of_a_resumed_run(stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def cost(name: str, **changes: Any) -> dict[str, Any]:
        found = learn_ranking(toy_engine(), random_task(), VALIDATED, options=quiet(tmp_path / name), **changes)
        said = found.provenance["cost"]
        return {key: round(said[key] * said["examples"], 1) for key in said if "_per_" in key} | {"n": said["examples"]}

    if stops:
        monkeypatch.setattr(RankingLearner, "hard", lambda self, budgets: torch.zeros_like(self.scores))  # never better
    with monkeypatch.context() as patch:
        stop(patch, 5, Killed())
        with pytest.raises(Killed):
            cost("killed", patience=2 if stops else 100)
    steps, n_validations = (6, 4) if stops else (12, 6)
    found = cost("killed", patience=2 if stops else 100)
    plain = cost("plain", patience=0, steps=steps)
    assert found["n"] == plain["n"] + 3 and found["backwards_per_example"] == plain["backwards_per_example"]
    more = found["forwards_per_example"] - plain["forwards_per_example"]
    assert more == pytest.approx(3 * (3 * n_validations + 2), abs=0.2)  # three sizes; each pair's own runs


def test_examples_that_only_the_start_saw_are_counted():
    task = random_task()
    warm = edge_pruning(toy_engine(), task, steps=1, batch_size=2, warm_start=6.0, options=quiet())
    ranked = learn_ranking(toy_engine(), task, steps=1, batch_size=2, options=quiet())
    for found in (warm, ranked):  # mask-path IG of five points, and a step of two pairs
        cost = found.provenance["cost"]
        assert cost["examples"] == 12 and cost["backwards_per_example"] == pytest.approx(5 + 2 / 12, abs=1e-3)
        assert cost["forwards_per_example"] == pytest.approx(7 + 2 / 12, abs=1e-3)
    cold = learn_ranking(toy_engine(), task, steps=1, batch_size=2, warm_examples=0, options=quiet())
    assert cold.provenance["cost"]["examples"] == 2
