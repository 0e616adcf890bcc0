"""What a long run needs to know of a method: how to begin, how to take one step, and what its state is."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor


class NotFiniteError(Exception):
    """A loss or gradient is NaN or infinite; the learner's state is still that of the last good step."""


class NothingToGainError(Exception):
    """More steps would not help: the run is over; raised before anything but the learner's tally is changed."""


class Learner(ABC):
    """A method that takes steps. The loop around it (`run_steps`) does the rest."""

    on_interrupt: ClassVar[Literal["undo", "finish"]] = "undo"
    """What becomes of the step under way at Ctrl-C: it is taken back, from a copy of the state that is made before each
    step; or, where the state is too large to be copied, it is finished first."""

    def prepare(self) -> None:
        """Do what every run needs first, fresh or resumed."""
        return

    def begin(self) -> None:
        """Do what only a fresh run needs, such as the attribution that it starts from."""
        return

    @abstractmethod
    def step(self, step: int) -> dict[str, Tensor | float]:
        """Do one step and return its metrics, `loss` among them.

        Raises:
            NotFiniteError: a number is not finite; raised before anything is changed.
            NothingToGainError: the run may end here.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The state: everything that a resumed run needs."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state that `tensors` gave."""
