"""Activation kinds: which features a token turns on."""

from dataclasses import dataclass

from edgewise._errors import InputError

KINDS = ("relu", "topk", "batch_topk", "jumprelu")


@dataclass(frozen=True)
class Activation:
    """From pre-activations to activations.

    `relu`: the positive ones. `topk`: the k largest of each token, if positive (Gao et al. 2024). `batch_topk`: in
    training the k·B largest of a batch of B tokens, if positive, and otherwise those above the learned `threshold`
    (Bussmann et al. 2024). `jumprelu`: those above the feature's own `threshold` (Rajamanoharan et al. 2024).
    """

    kind: str = "topk"
    k: int | None = None
    """Active features per token, of `topk` and `batch_topk`."""
    rectified: bool = True
    """Whether negative pre-activations among the k largest are set to 0; some tools' `topk` keeps them."""

    def __post_init__(self) -> None:
        """Check the kind and k. Raises `InputError`."""
        if self.kind not in KINDS:
            raise InputError(f"activation {self.kind!r}: choose {', '.join(KINDS)}")
        if self.counted != (self.k is not None) or (self.k is not None and self.k < 1):
            need = "give how many features are active, such as topk:32" if self.counted else "it takes no k"
            raise InputError(f"activation {self.kind}, k={self.k}: {need}")
        if not self.rectified and self.kind != "topk":
            raise InputError(f"activation {self.kind}: only topk can keep negative activations")

    def __str__(self) -> str:
        return self.kind if self.k is None else f"{self.kind}:{self.k}"

    @property
    def counted(self) -> bool:
        """Whether a number k of features is kept."""
        return self.kind in ("topk", "batch_topk")

    @property
    def thresholded(self) -> bool:
        """Whether activations are those above a stored threshold (in use; for `jumprelu` in training too)."""
        return self.kind in ("batch_topk", "jumprelu")

    @staticmethod
    def parse(text: str) -> "Activation":
        """`relu`, `jumprelu`, `topk:32` or `batch_topk:32`. Raises `InputError`."""
        kind, _, k = text.strip().replace("-", "_").partition(":")
        if k and not k.isdecimal():
            raise InputError(f"activation {text!r}: after the colon comes a number, such as topk:32")
        return Activation({"batchtopk": "batch_topk"}.get(kind, kind), int(k) if k else None)
