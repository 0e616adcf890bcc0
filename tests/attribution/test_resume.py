"""A graph whose making was killed goes on to the same bits."""

import dataclasses
import signal
from pathlib import Path

import pytest
import torch

from edgewise import InputError
from edgewise.attribution import AttributionConfig, AttributionGraph
from edgewise.attribution._grow import Growth
from edgewise.runs import CHECKPOINT, RunOptions
from tests.attribution.test_rows import EVERYTHING, attribute, prompt, transcoder
from tests.discovery.toys import Killed
from tests.tiny import tiny

CONFIG = AttributionConfig(max_nodes=30, batch=8, keep=0.95)


def made(out: Path, seed: int = 0, config: AttributionConfig = CONFIG) -> AttributionGraph:
    model = tiny("gpt2")
    options = RunOptions(out=out, checkpoint_seconds=0, progress=False)
    sets = [transcoder(model, layer) for layer in (0, 1, 2)]
    return attribute(model, prompt(seed=seed), sets, config=config, options=options)


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    step = Growth.step

    def killed(self: Growth, at: int) -> dict[str, torch.Tensor | float]:
        if at == number:
            raise Killed
        return step(self, at)

    patch.setattr(Growth, "step", killed)


def interrupt_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in every graph's step of that number."""
    step = Growth.step

    def interrupted(self: Growth, at: int) -> dict[str, torch.Tensor | float]:
        if at == number:
            signal.raise_signal(signal.SIGINT)
        return step(self, at)

    patch.setattr(Growth, "step", interrupted)


def test_an_interrupted_graph_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        cut = made(tmp_path)
    assert cut.provenance["run"]["stopped"] == "interrupted after step 2" and cut.provenance["run"]["steps"] == 2
    assert int(cut.nodes.is_kind("feature").sum()) == 16
    whole = made(tmp_path)
    assert int(whole.nodes.is_kind("feature").sum()) == 30 and "stopped" not in whole.provenance["run"]


def test_an_interrupt_in_the_last_step_ends_what_was_to_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt, match="after step 4, the last"):
            made(tmp_path)
        whole = made(tmp_path)  # from the checkpoint, without a step
    assert int(whole.nodes.is_kind("feature").sum()) == 30 and "stopped" not in whole.provenance["run"]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_killed_graph_goes_on_to_the_same_bits(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, at)
        with pytest.raises(Killed):
            made(tmp_path / "killed")
    steps = []
    with monkeypatch.context() as patch:
        step = Growth.step
        patch.setattr(Growth, "step", lambda self, number: steps.append(number) or step(self, number))
        resumed = made(tmp_path / "killed")
    assert steps == list(range(at, 4))  # what was done is not done again
    assert resumed.names == whole.names
    for name in ("offsets", "sources", "weight"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
    for mine, other in zip(resumed.ledger, whole.ledger, strict=True):
        assert torch.equal(mine, other)


def test_a_checkpoint_of_another_graph_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    for seed, config in ((1, CONFIG), (0, dataclasses.replace(CONFIG, keep=0.9)), (0, EVERYTHING)):
        before = (tmp_path / CHECKPOINT).read_bytes()
        with pytest.raises(InputError, match="other settings|another"):
            made(tmp_path, seed, config)
        assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_direction_or_type_is_refused(tmp_path: Path) -> None:
    model, options = tiny("gpt2"), RunOptions(out=tmp_path, checkpoint_seconds=0, progress=False)
    directions = torch.randn(2, model.parts.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = [("it", each) for each in directions]
    first = attribute(model, prompt(), target=targets[0], config=CONFIG, options=options)
    again = attribute(model, prompt(), target=targets[0], config=CONFIG, options=options)
    assert torch.equal(first.weight, again.weight)
    with pytest.raises(InputError, match="other settings .direction"):
        attribute(model, prompt(), target=targets[1], config=CONFIG, options=options)
    with pytest.raises(InputError, match="other settings .dtype"):
        attribute(model, prompt(), target=targets[0], config=CONFIG, options=options, dtype=torch.float32)
