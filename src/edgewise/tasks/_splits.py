"""The three splits of a task, and which words belong to which."""

import hashlib
from typing import Literal, TypeAlias, TypeVar, get_args

Split: TypeAlias = Literal["train", "validation", "test"]
"""A split of a task by name."""
T = TypeVar("T")

SPLITS: tuple[Split, ...] = get_args(Split)
"""The splits of a task, in order."""

# Three words in five are for training, one for validation, one for the test.
_DEAL: tuple[Split, ...] = ("train", "train", "train", "validation", "test")
FEWEST = len(_DEAL)
"""So many are dealt out to every split."""


def words_of(words: tuple[T, ...], split: Split) -> tuple[T, ...]:
    """The words of a list that belong to `split`, by their places; the splits share none and together are the list."""
    return tuple(word for place, word in enumerate(words) if _DEAL[place % len(_DEAL)] == split)


def split_of(*key: str | int) -> Split:
    """The split that something belongs to for good, where it stands in no list: three in five for training."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return _DEAL[int.from_bytes(digest[:8], "big") % len(_DEAL)]
