"""The three splits of a task, and which words belong to which."""

from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# Three words in five are for training, one for validation, one for the test.
_DEAL: tuple[Split, ...] = ("train", "train", "train", "validation", "test")


def words_of(words: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """The words of a list that belong to `split`, by their places; the splits share none and together are the list."""
    return tuple(word for place, word in enumerate(words) if _DEAL[place % len(_DEAL)] == split)
