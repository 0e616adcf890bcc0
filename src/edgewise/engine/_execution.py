"""How an engine carries its runs out."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from edgewise._errors import InputError
from edgewise.engine._matmul import MATMULS, Matmul
from edgewise.runs import ONE_PROCESS, Ranks

CACHE_BYTES = 1 << 30
"""How much the constants of the examples may take before they are computed again each time."""


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
    and in the plain ones that give ablated values and the full model's predictions (attention and unembedding left
    out). `medium` lets it use bfloat16 where the processor multiplies it faster, which is good enough to learn masks by
    and not to judge them; see docs/performance.md."""
    cache_bytes: int = CACHE_BYTES
    """How much memory `Engine.prepare` may fill with what depends on the examples alone."""
    ranks: Ranks = ONE_PROCESS
    """The processes that share out a method's examples or candidates (see `edgewise.runs.processes`); all of them must
    make the same calls."""
    path: Literal["fast", "reference"] = "fast"
    """`reference` runs the slow path that the fast one is tested against."""

    def __post_init__(self) -> None:
        """Check the names. Raises `InputError`."""
        if self.memory not in ("default", "lean"):
            raise InputError(f"memory={self.memory!r}: choose 'default' or 'lean'")
        if self.matmul not in MATMULS:
            raise InputError(f"matmul={self.matmul!r}: choose {', '.join(MATMULS[:-1])} or {MATMULS[-1]}")
        if self.path not in ("fast", "reference"):
            raise InputError(f"path={self.path!r}: choose 'fast' or 'reference'")

    def changed(self, changes: dict[str, Any]) -> "Execution":
        """With other values of some fields.

        Raises:
            InputError: there is no such field, or a value is not one of its.
        """
        known = [field.name for field in fields(self)]
        if unknown := sorted(changes.keys() - set(known)):
            raise InputError(f"engine: there is no option {unknown[0]!r}; choose among {', '.join(known)}")
        return replace(self, **changes)
