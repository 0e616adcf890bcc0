"""What is kept of a text, and what is shown of it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from edgewise.runs import Bound, Count, NotNegative, check_settings

_Window = Annotated[int, Bound(lambda n: 0 <= n <= 100, "0 to 100")]
_Bins = Annotated[int, Bound(lambda n: 1 <= n <= 255, "1 to 255")]  # a page numbers them in a byte, 0 being the top


@dataclass(frozen=True)
class DashboardConfig:
    """What a dashboard keeps of each feature; what is held in memory is as large as these say, and not as the text."""

    batch_tokens: Count = 2048
    """Of one forward."""
    sample: Count = 100
    """Tokens drawn at random of all at which a feature is on: the quantiles are theirs."""
    top: Count = 32
    """Tokens at which it is most on that are kept; of those that stand close together the page shows one."""
    before: _Window = 20
    """Tokens of context before the one that a feature is on at,"""
    after: _Window = 11
    """and after it."""
    quantiles: _Bins = 10
    """Bins of equal share, into which the sample is split by activation."""
    examples: Count = 5
    """Shown of each bin."""
    shown_top: Count = 10
    """Shown of those where it is most on."""
    listed: Count = 7
    """Tokens and features that are listed on each side."""
    exclude_special: bool = True
    """Leave special tokens and each row's first out."""
    precision: Literal["bfloat16", "float32"] | None = None
    """Of the language model's products; None: the faster, by the processor."""
    seed: NotNegative = 0
    """Of the sample."""

    def __post_init__(self) -> None:
        """Check the values. Raises `InputError`."""
        check_settings("dashboard", self)

    @property
    def window(self) -> int:
        """Tokens of one context."""
        return self.before + 1 + self.after

    def gathered(self) -> dict[str, Any]:
        """The settings that decide what is gathered, as opposed to what is shown of it."""
        names = ("batch_tokens", "sample", "top", "before", "after", "exclude_special", "precision", "seed")
        return {name: getattr(self, name) for name in names}
