"""A thousand wrong files, settings and command lines; `benchmarks/fuzz.py` makes a million."""

import os
from contextlib import suppress
from random import Random

import pytest

from tests.fuzz.mutate import ODD, tree_changed
from tests.fuzz.worker import Fuzzer

CASES = int(os.environ.get("EDGEWISE_CASES", "1000"))


@pytest.mark.unchecked
@pytest.mark.filterwarnings("ignore")
def test_wrong_inputs_are_refused_in_one_line_or_read_for_what_they_are():
    tried = list[tuple[str, bool]]()
    failures = Fuzzer().run(CASES, report=lambda number, name, what, took: tried.append((name, what is None)))
    assert not failures, "\n\n".join(f"{each.number}, {each.target}: {each.what}" for each in failures)
    assert len(tried) == CASES and len({name for name, _ in tried}) > 40


def test_an_input_is_made_of_its_number_alone():
    """What was put into one value is not changed with it, or the next inputs would be others."""
    before = repr(ODD)
    value = {"a": [1, {"b": "x"}], "c": {"d": [2.5, None]}}
    for number in range(300):
        with suppress(RecursionError):  # deep ones, which the fuzzer makes in another way
            tree_changed(value, Random(number))
    assert repr(ODD) == before
