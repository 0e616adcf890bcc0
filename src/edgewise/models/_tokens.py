"""Token ids of a batch, with what is padding."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Tokens(NamedTuple):
    """Token ids of `B` prompts of up to `S` positions; padding may stand on either side."""

    ids: Int[Tensor, "B S"]
    mask: Bool[Tensor, "B S"]
    """True where a real token stands."""

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens on `device`."""
        return Tokens(self.ids.to(device), self.mask.to(device))
