"""A thousand wrong files, settings and command lines; `benchmarks/fuzz.py` makes a million."""

import os

import pytest

from tests.fuzz.worker import Fuzzer

CASES = int(os.environ.get("EDGEWISE_CASES", "1000"))


@pytest.mark.unchecked
@pytest.mark.filterwarnings("ignore")
def test_wrong_inputs_are_refused_in_one_line_or_read_for_what_they_are():
    tried = list[tuple[str, bool]]()
    failures = Fuzzer().run(CASES, report=lambda number, name, what, took: tried.append((name, what is None)))
    assert not failures, "\n\n".join(f"{each.number}, {each.target}: {each.what}" for each in failures)
    assert len(tried) == CASES and len({name for name, _ in tried}) > 40
