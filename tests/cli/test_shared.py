"""Commands under `torchrun`: several processes, one result."""

import sys
from contextlib import suppress
from pathlib import Path

import edgewise as ew
from tests.processes import side_by_side


def command(*arguments: str) -> None:
    from edgewise.cli import main

    sys.argv = ["edgewise", *arguments]
    main()


def work(out: str) -> None:
    """Find and judge a circuit, one command after the other, as in one process."""
    find = "find", "--model", "tracr:reverse", "--task", "program"
    with suppress(SystemExit):
        command(*find, "--method", "eap", "--out", out)
    with suppress(SystemExit):
        command(*find, "--steps", "3", "--batch-size", "2", "--share", "tokens", "--out", f"{out}/by-token")
    command("evaluate", f"{out}/circuit.safetensors", "--baselines", "none")


def test_two_processes_write_one_result(tmp_path: Path):
    for n in (1, 2):
        side_by_side(n, work, str(tmp_path / str(n)))
    one, two = (ew.Circuit.load(tmp_path / n / "circuit.safetensors") for n in "12")
    assert one.kept.equal(two.kept) and one.scores is not None and two.scores is not None
    assert one.scores.equal(two.scores)
    one, two = (ew.Scores.of(ew.Circuit.load(tmp_path / n / "by-token/circuit.safetensors")) for n in "12")
    apart = one.values.sort().values - two.values.sort().values  # rounding decides between scores that start alike
    assert float(apart.abs().max()) <= 1e-5 * float(one.values.abs().max())
    found = [(tmp_path / n / "evaluation.json").read_text() for n in "12"]
    assert found[0] == found[1]
