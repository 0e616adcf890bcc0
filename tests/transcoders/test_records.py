"""What a record says of a training: how much was seen, and of which texts."""

from typing import Any

import pytest

from edgewise.transcoders import texts_seen, trained_on
from tests.transcoders.files import made
from tests.transcoders.toys import learn


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({"tokens": 1000, "batch_tokens": 300, "steps": 3}, "900 tokens"),
        ({"tokens": 10**6, "batch_tokens": 2048, "steps": 5, "stop": "interrupted"}, "10,240 tokens, stopped early"),
        ({"tokens": 5000}, "5,000 tokens"),
        ({"tokens": "many", "steps": None, "batch_tokens": 4}, ""),
        ({"tokens": 1000, "batch_tokens": 300, "steps": 0, "stop": "not finite"}, ""),
        ("by hand", ""),
    ],
)
def test_tokens_trained_on_are_those_seen(method: Any, says: str):
    transcoder = made()
    transcoder.provenance = {"method": method}
    assert trained_on(transcoder) == says


def test_a_run_says_how_many_tokens_it_saw():
    (transcoder, *_), *_ = learn(layers=(0,), tokens=32 * 3 + 31).transcoders.values()
    assert transcoder.provenance["method"]["tokens"] == 127 and trained_on(transcoder) == "96 tokens"


def test_texts_are_those_of_the_training_and_of_every_tuning():
    transcoder = made()
    tunings = {"text": {"text": ["c"]}, "before": {"text": {"text": ["b"]}}}
    transcoder.provenance = {"method": {"text": {"text": ["a"]}, "tuned": tunings}}
    assert [each["text"] for each in texts_seen(transcoder)] == [["a"], ["c"], ["b"]]
    for other in ({}, {"method": "by hand"}, {"method": {"text": "a book", "tuned": "twice"}}):
        transcoder.provenance = other
        assert texts_seen(transcoder) == [{}]
