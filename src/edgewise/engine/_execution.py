"""How an engine carries its runs out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

import torch

from edgewise._errors import InputError
from edgewise.engine._matmul import MATMULS, Matmul
from edgewise.runs import ONE_PROCESS, Ranks

Share: TypeAlias = Literal["examples", "tokens"]
"""What several processes share out of a step."""

CACHE_BYTES = 1 << 30
"""How much the constants of the examples may take before they are computed again each time."""


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise `InputError` unless a value is one of some."""
    if value not in choices:
        *others, last = map(repr, choices)
        raise InputError(f"{name}={value!r:.60}: choose {', '.join(others)} or {last}")


@dataclass(frozen=True)
class Execution:
    """How an engine carries its runs out. Nothing here changes a number by more than rounding."""

    memory: Literal["default", "lean"] = "default"
    """`lean` keeps heads at their own width and makes again what is cheap to make: the same numbers (up to rounding) in
    a fraction of the memory, for more time; see docs/performance.md."""
    dtype: torch.dtype | None = None
    """The type of the stack and of products with it and with the weights, such as `torch.bfloat16` for a model in it;
    masks, sums of products and gradients stay in float32. None: that of the masks, float32 or the model's float64."""
    matmul: Matmul = "highest"
    """What PyTorch may do to products of float32 matrices, as in `torch.set_float32_matmul_precision`, in masked runs
    and in the plain ones that give ablated values and the full model's predictions. Unembedding is left out, and so is
    attention, but for these predictions, where your own module runs as a whole. `medium` lets it use bfloat16 where the
    processor multiplies it faster, which is good enough to learn masks by and not to judge them; see
    docs/performance.md."""
    cache_bytes: int = CACHE_BYTES
    """How much memory `Engine.prepare` may fill with what depends on the examples alone."""
    ranks: Ranks = ONE_PROCESS
    """The processes that share out the work (see `edgewise.runs.processes`); all of them must make the same calls."""
    share: Share = "examples"
    """What they share out: a method's examples or candidates; or each masked run's tokens, so that the memory of a step
    falls with their number where it has fewer examples than there are processes. With `tokens`, what is no masked run
    is run whole by each."""
    path: Literal["fast", "reference"] = "fast"
    """`reference` runs the slow path that the fast one is tested against."""

    def __post_init__(self) -> None:
        """Check the names. Raises `InputError`."""
        check_choice("memory", self.memory, ("default", "lean"))
        check_choice("matmul", self.matmul, MATMULS)
        check_choice("share", self.share, get_args(Share))
        check_choice("path", self.path, ("fast", "reference"))
        if self.path == "reference" and self.share == "tokens":
            raise InputError("share='tokens': the reference path runs all tokens; use share='examples'")

    @property
    def example_ranks(self) -> Ranks:
        """The processes among which examples, batches or candidates are shared out."""
        return self.ranks if self.share == "examples" else ONE_PROCESS

    @property
    def token_ranks(self) -> Ranks:
        """The processes among which each masked run's tokens are shared out."""
        return self.ranks if self.share == "tokens" else ONE_PROCESS

    def changed(self, changes: dict[str, Any]) -> "Execution":
        """With other values of some fields.

        Raises:
            InputError: there is no such field, or a value is not one of its.
        """
        known = [field.name for field in fields(self)]
        if unknown := sorted(changes.keys() - set(known)):
            raise InputError(f"engine: there is no option {unknown[0]!r}; choose among {', '.join(known)}")
        return replace(self, **changes)
