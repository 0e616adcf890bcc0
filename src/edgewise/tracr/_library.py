"""The programs of Tracr's library, each with the vocabulary and the lengths that it is studied with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgewise._errors import InputError
from edgewise.models import CompiledTransformer, Value
from edgewise.tracr._compile import compile_program, tracr_module


@dataclass(frozen=True)
class Entry:
    """One program."""

    make: Callable[[Any, Any], Any]
    """From Tracr's library and its RASP to the program."""
    vocabulary: tuple[Value, ...]
    max_length: int
    """Symbols that the model takes."""
    longest: int
    """Symbols of the longest input that it is studied on."""


LIBRARY: dict[str, Entry] = {
    "count": Entry(lambda lib, rasp: lib.make_count(rasp.tokens, "a"), ("a", "b", "c"), 4, 4),
    "count_less_freq": Entry(lambda lib, rasp: lib.make_count_less_freq(2), ("a", "b", "c"), 4, 4),
    "hist": Entry(lambda lib, rasp: lib.make_hist(), ("a", "b", "c"), 4, 4),
    "length": Entry(lambda lib, rasp: lib.make_length(), ("a", "b", "c"), 4, 4),
    "pair_balance": Entry(lambda lib, rasp: lib.make_pair_balance(rasp.tokens, "(", ")"), ("(", ")", "a"), 4, 4),
    # Vocabulary and sizes of this and of xproportion are those of ACDC's and Edge Pruning's models.
    "reverse": Entry(lambda lib, rasp: lib.make_reverse(rasp.tokens), (1, 2, 3), 5, 3),
    "shuffle_dyck": Entry(lambda lib, rasp: lib.make_shuffle_dyck(["()"]), ("(", ")"), 6, 6),
    "shuffle_dyck2": Entry(lambda lib, rasp: lib.make_shuffle_dyck2(), ("(", ")", "{", "}"), 4, 4),
    "sort": Entry(lambda lib, rasp: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1), (1, 2, 3), 4, 4),
    "sort_freq": Entry(lambda lib, rasp: lib.make_sort_freq(4), (1, 2, 3), 4, 4),
    "sort_unique": Entry(lambda lib, rasp: lib.make_sort_unique(rasp.tokens, rasp.tokens), (1, 2, 3, 4), 4, 4),
    # `frac_prevs` of the library on the condition that a symbol is an x.
    "xproportion": Entry(lambda lib, rasp: lib.make_frac_prevs(rasp.tokens == "x"), ("w", "x", "y", "z"), 5, 4),
}
"""Tracr's own programs by name."""


def compile_library(name: str) -> CompiledTransformer:
    """Compile one of Tracr's own programs.

    Raises:
        InputError: there is no such program, or Tracr is not installed.
    """
    if name not in LIBRARY:
        raise InputError(f"tracr: no program {name!r}; choose {', '.join(LIBRARY)}")
    entry = LIBRARY[name]
    program = entry.make(tracr_module("compiler.lib"), tracr_module("rasp.rasp"))
    return compile_program(program, entry.vocabulary, entry.max_length, name=name, longest=entry.longest)
