"""Scores against known edges: by hand, by counting pairs, and at every threshold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.evaluation import against_known, auroc
from tests.tiny import refused


def test_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.8, 0.3, float("nan")])
    known = torch.tensor([True, True, False, False, True])
    found = against_known(scores, known)
    assert found.kept.tolist() == [0, 1, 3, 4, 5] and found.true_positives.tolist() == [0, 1, 2, 2, 3]
    assert found.precision == pytest.approx([1, 1, 2 / 3, 1 / 2, 3 / 5])
    assert found.recall == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert found.false_positive_rate == pytest.approx([0, 0, 1 / 2, 1, 1])
    assert found.auroc == pytest.approx(1 / 2 * (1 / 3 + 2 / 3) / 2 + 1 / 2 * 2 / 3)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_at_every_threshold_it_is_what_counting_says(rows):
    scores, known = torch.tensor([float(score) for score, _ in rows]), torch.tensor([mark for _, mark in rows])
    if not 0 < int(known.sum()) < len(known):
        assert auroc(scores, known) is None
        refused(lambda: against_known(scores, known))
        return
    found = against_known(scores, known)
    for place, threshold in enumerate(sorted(set(scores.tolist()), reverse=True), start=1):
        kept = scores >= threshold
        assert found.kept[place] == int(kept.sum())
        assert found.precision[place] == pytest.approx(float((kept & known).sum() / kept.sum()))
        assert found.recall[place] == pytest.approx(float((kept & known).sum() / known.sum()))
    pairs = [(a > b) + (a == b) / 2 for a in scores[known].tolist() for b in scores[~known].tolist()]
    assert found.auroc == pytest.approx(np.mean(pairs)) == auroc(scores, known)


@pytest.mark.unchecked
def test_shapes_that_differ_are_refused():
    refused(lambda: against_known(torch.ones(3), torch.tensor([True, False])))
