"""Random choices that are the same on every machine and in every version of Python.

Of the standard generator only seeding and `random()` are guaranteed to stay as they are, so every choice is made from
`random()` here.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def generator(*key: str | int) -> Random:
    """A generator of its own for each key. A string seeds through SHA-512, never through `hash()`."""
    return Random("/".join(map(str, ("edgewise", *key))))


def choice(random: Random, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(random.random() * len(items))]


def sample(random: Random, items: Sequence[T], count: int) -> list[T]:
    """`count` different ones of `items`, in random order."""
    pool = list(items)
    for place in range(count):
        other = place + int(random.random() * (len(pool) - place))
        pool[place], pool[other] = pool[other], pool[place]
    return pool[:count]
