"""Pairs kept on disk, so that a task of 100,000 examples takes no more memory than one of 1,000."""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, overload

from edgewise._errors import InputError
from edgewise.tasks._pairs import Pair, Target

IN_MEMORY = 4096
"""Splits of at most so many pairs stay plain tuples (some 3 kB a pair)."""


class PairStore:
    """Pairs written one after the other to a temporary file that the system removes with the process.

    Memory holds 8 bytes a pair, the place it stands at.
    """

    def __init__(self) -> None:
        with _room():
            self._file = tempfile.TemporaryFile(prefix="edgewise-pairs-")  # noqa: SIM115 (it lives as long as the store)
        self._places = array("q", [0])
        weakref.finalize(self, _close, self._file)

    def __len__(self) -> int:
        return len(self._places) - 1

    def append(self, pair: Pair) -> None:
        """Write one pair. Raises `InputError` where there is no room."""
        row = _row(pair)
        with _room():
            self._file.seek(self._places[-1])
            self._file.write(row)
        self._places.append(self._places[-1] + len(row))

    def read(self, number: int) -> Pair:
        """The pair that was appended as number `number`."""
        start, stop = self._places[number], self._places[number + 1]
        with _room():  # what was written last may only now go to the disk
            self._file.seek(start)
            return _pair(self._file.read(stop - start))

    def select(self, numbers: Sequence[int]) -> Sequence[Pair]:
        """These pairs as a split: a tuple of few, and of many a view that reads each when it is asked for."""
        if len(numbers) <= IN_MEMORY:
            return tuple(self.read(number) for number in numbers)
        return StoredPairs(self, numbers)


@contextmanager
def _room() -> Iterator[None]:
    """Within it, a full disk is refused in one line. Raises `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"pairs: the folder for temporary files cannot hold them ({error.strerror or error}); set TMPDIR to one "
            "with room"
        ) from error


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # what could not be written is not wanted any more
        file.close()


class StoredPairs(Sequence[Pair]):
    """Pairs of a store, in an order of their own."""

    def __init__(self, store: PairStore, numbers: Sequence[int]) -> None:
        self._store = store
        self._numbers = numbers if isinstance(numbers, range) else array("q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return self._store.select(self._numbers[index])
        return self._store.read(self._numbers[index])


def stored(pairs: Iterable[Pair]) -> Sequence[Pair]:
    """The pairs as a sequence, in memory if they are few and on disk if they are many."""
    store = PairStore()
    for pair in pairs:
        store.append(pair)
    return store.select(range(len(store)))


def _row(pair: Pair) -> bytes:
    targets = [(target.position, target.answers, target.wrong) for target in pair.targets]
    values = (pair.clean, pair.corrupted, targets, pair.clean_text, pair.corrupted_text, pair.spans, pair.align)
    return json.dumps(values, separators=(",", ":")).encode()


def _pair(row: bytes) -> Pair:
    clean, corrupted, targets, clean_text, corrupted_text, spans, align = json.loads(row)
    return Pair(
        tuple(clean),
        tuple(corrupted),
        tuple(Target(position, tuple(answers), tuple(wrong)) for position, answers, wrong in targets),
        clean_text,
        corrupted_text,
        None if spans is None else tuple(spans),
        None if align is None else tuple(align),
    )
