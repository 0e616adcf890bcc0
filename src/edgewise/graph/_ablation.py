"""What a removed edge carries instead."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from edgewise._errors import InputError

AblationKind = Literal["interchange", "zero", "mean", "mean-positional", "learned"]
"""What a removed edge carries, see `Ablation`."""
KINDS: tuple[AblationKind, ...] = get_args(AblationKind)


@dataclass(frozen=True)
class Ablation:
    """What a removed edge carries, said in full wherever a number is shown.

    * `interchange`: the writer's output in the full model's run on the corrupted prompt, at the same position.
    * `zero`: nothing.
    * `mean`: the writer's mean output over all positions of a stated set of prompts.
    * `mean-positional`: the same, position by position (counted from the first token).
    * `learned`: one constant per writer, learned (Li & Janson 2024).
    """

    kind: AblationKind = "interchange"
    source: str = ""
    """What produced it: `corrupted`, the paired prompt, for interchange; for means, the prompts that were averaged."""
    bias: Literal["layer", "shared"] = "layer"
    """Who owns an attention layer's output bias b_O: the layer, where it is always on, or each head an equal share b_O
    / H (as the official Edge Pruning code has it). They differ under `zero` and `learned` alone, where a share goes
    with its head."""

    def __post_init__(self) -> None:
        """Check the names. Raises `InputError`."""
        if self.kind not in KINDS:
            raise InputError(f"ablation: {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.kind == "interchange" and not self.source:
            object.__setattr__(self, "source", "corrupted")
        if not isinstance(self.source, str):
            raise InputError(f"ablation: source={self.source!r:.60} is no text")
        if self.bias not in ("layer", "shared"):
            raise InputError(f"ablation: bias={self.bias!r} is neither 'layer' nor 'shared'")

    @property
    def splits_bias(self) -> bool:
        """Whether heads carry shares of b_O that an ablation takes away."""
        return self.bias == "shared" and self.kind in ("zero", "learned")

    @property
    def takes_constants(self) -> bool:
        """Whether an engine must be given what removed edges carry: means, or learned constants."""
        return self.kind not in ("interchange", "zero")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a file's header."""
        return asdict(self)
