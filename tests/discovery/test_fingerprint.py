"""What tells one loss of a user's from another, so that a checkpoint of one is not taken up under the other."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from edgewise.discovery._provenance import score_code

Loss = Callable[..., Tensor]


def _scaled(by: float | Tensor) -> Loss:
    return lambda logits, batch: logits.sum(-1) * by


def _weighted(logits: Tensor, batch: object, weight: float) -> Tensor:
    return logits.sum(-1) * weight


def _default(weight: float) -> Loss:
    return lambda logits, batch, weight=weight: logits.sum(-1) * weight


@dataclass
class Weighted:
    """A loss that is an object."""

    weight: float

    def __call__(self, logits: Tensor, batch: object) -> Tensor:
        return logits.sum(-1) * self.weight

    def method(self, logits: Tensor, batch: object) -> Tensor:
        return logits.sum(-1) - self.weight


@pytest.mark.parametrize(
    "make",
    [
        lambda w: _scaled(w),
        lambda w: _scaled(torch.tensor([w])),
        lambda w: partial(_weighted, weight=w),
        lambda w: _default(w),
        lambda w: Weighted(w),
        lambda w: Weighted(w).method,
    ],
    ids=["closure", "closure over a tensor", "partial", "default", "object", "method"],
)
def test_values_that_a_loss_holds_count(make: Callable[[float], Loss]):
    assert score_code(make(1.0)) == score_code(make(1.0)) != score_code(make(-1.0))


def test_the_names_that_a_loss_uses_count():
    assert score_code(lambda logits, batch: logits.amax(-1)) != score_code(lambda logits, batch: logits.amin(-1))


def test_a_loss_that_refers_to_itself_is_told():
    def loss(logits: Tensor, batch: object) -> Tensor:
        return logits if logits.ndim == 1 else loss(logits.sum(-1), batch)

    assert len(score_code(loss)) == 64


_SCRIPT = """
from edgewise.discovery._provenance import score_code
def loss(logits, batch):
    names = [x for x in batch if x in {"a", "b", "c", "d"}]
    return logits.sum() if names else (lambda y: y)(logits)
print(score_code(loss))
"""


def test_it_is_the_same_in_every_process():
    """Addresses and the order of sets are not."""

    def run(hash_seed: str) -> str:
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run(
            [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, env=environment
        ).stdout

    assert run("1") == run("2") != ""
