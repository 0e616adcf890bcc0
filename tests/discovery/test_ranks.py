"""Runs that several processes share give what one gives, and end together."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgewise import InputError
from edgewise.runs import CHECKPOINT, OneProcess, in_turn, joined, own_shares, share
from tests.discovery.sharing import everything, long_run
from tests.discovery.toys import LEARNED, differing, near
from tests.processes import begin_side_by_side, side_by_side


def _results(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) == len(LEARNED) + 2
    return {f"{path.relative_to(folder)} {name}": x for path in files for name, x in load_file(path).items()}


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process: in one share, and in four."""
    out = tmp_path_factory.mktemp("one")
    everything(out / "whole")
    everything(out / "four", 4)
    return out


@pytest.mark.parametrize("n", [2, 4])
def test_several_processes_give_what_one_gives(n: int, by_one: Path, tmp_path: Path):
    """To the last bit where examples are cut into the same shares; candidates' runs are of other widths."""
    side_by_side(n, everything, tmp_path, 4)
    found, expected = _results(tmp_path), _results(by_one / "four")
    near(found.pop("values.safetensors exact"), expected.pop("values.safetensors exact"), 1e-5)
    assert differing(found, expected) == []


def test_shares_change_rounding_alone(by_one: Path):
    whole, four = _results(by_one / "whole"), _results(by_one / "four")
    assert whole.keys() == four.keys()
    for name, tensor in whole.items():
        if "optimizer" not in name and tensor.is_floating_point():
            near(four[name], tensor, 1e-3)  # Adam's steps have one size, however small a gradient: rounding grows


def test_when_one_process_is_killed_the_others_end_and_another_number_goes_on(tmp_path: Path):
    out = tmp_path / "killed"
    first, second = begin_side_by_side(2, long_run, out, 4)
    while not (out / CHECKPOINT).exists():
        time.sleep(0.01)
    second.kill()
    first.join(30)
    assert first.exitcode not in (0, None)
    side_by_side(4, long_run, out, 4)
    side_by_side(1, long_run, tmp_path / "whole", 4)
    assert differing(load_file(out / CHECKPOINT), load_file(tmp_path / "whole" / CHECKPOINT)) == []


class _Pretended(OneProcess):
    """One of several processes, of which the others are not there."""

    def __init__(self, rank: int, size: int, shares: int) -> None:
        super().__init__(shares)
        self.rank, self.size = rank, size


@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_shares_are_all_examples_in_order_and_nearly_alike(n: int):
    items = list(range(n))
    for size, shares in ((1, 1), (1, 4), (2, 4), (4, 4), (3, 3)):
        ranks = [_Pretended(rank, size, shares) for rank in range(size)]
        cut = [each for own in ranks for each in own_shares(items, own)]
        assert len(cut) == shares and [i for each in cut for i in each] == items
        assert max(map(len, cut)) - min(map(len, cut)) <= 1
        assert [i for own in ranks for i in share(n, own)] == items


def test_one_process_runs_all_in_turn():
    ran = list(in_turn(range(3), lambda i: torch.full((2,), i, dtype=torch.float64)))
    assert torch.equal(torch.stack(ran)[:, 0], torch.arange(3.0, dtype=torch.float64))
    assert torch.equal(joined(torch.arange(3), OneProcess()), torch.arange(3))


def _uneven(out: Path) -> None:
    from edgewise.runs import processes

    try:
        with processes(torch.device("cpu"), 3):
            pass
    except InputError as error:
        (out / "said").write_text(str(error))


def test_shares_that_cannot_be_dealt_out_are_refused(tmp_path: Path):
    side_by_side(2, _uneven, tmp_path)
    assert "give a multiple" in (tmp_path / "said").read_text()
