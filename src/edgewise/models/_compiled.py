"""Models compiled from RASP programs: a small transformer together with what it computes, in one `.safetensors`.

Compiling needs Tracr (see `edgewise.tracr`); loading needs nothing but PyTorch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models._configuration import check_depth
from edgewise.models._plain import PlainConfig, PlainTransformer
from edgewise.runs import names_in, reading_tensors, user_path, write_tensors

SCHEMA = 1
"""Version of the file format; raised when an older reader would misread a newer file."""
_ENTRY = "edgewise-program"  # of the metadata; other models' weights have the same suffix
FILE = "program.safetensors"
"""The file's name in a folder that stands for the model."""
SHIPPED = {
    "tracr:reverse": "reverses 3 symbols; compiled by Tracr, 4 layers of one head",
    "tracr:xproportion": "the share of x so far; compiled by Tracr, 2 layers of one head",
}
"""Compiled models that come with the package."""

Value: TypeAlias = str | int | float | bool
"""A symbol of a program's vocabulary, or what it says about a position."""


@dataclass(frozen=True, eq=False)
class Program:
    """What a compiled model was compiled from: its symbols, its inputs, and what the program says on each of them."""

    name: str
    tokens: tuple[Value, ...]
    """The model's vocabulary by id, `bos` and `pad` included."""
    bos: int
    """Id of the token that starts every input."""
    pad: int
    """Id of the token that stands for nothing; it fills up `inputs`."""
    outputs: tuple[Value, ...] | None
    """What each of the model's outputs stands for, of which the largest is the answer; None if the one output is a
    number."""
    inputs: Int[Tensor, "n S"]
    """The inputs on which the program is defined, `bos` first, filled up with `pad`."""
    expected: Float[Tensor, "n S"]
    """What the RASP program itself says there: the number of the output, or the number; NaN at `bos` and `pad`."""
    complete: bool
    """Whether these are all inputs on which it is defined, up to the longest here, or a sample."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Compiler, its settings, and the names of the residual stream's directions."""

    @property
    def lengths(self) -> Int[Tensor, " n"]:
        """Tokens of each input, `bos` included."""
        return (self.inputs != self.pad).sum(1)

    def text(self, ids: Sequence[int]) -> str:
        """An input as text."""
        return " ".join(str(self.tokens[i]) for i in ids)


class CompiledTransformer(PlainTransformer):
    """A `PlainTransformer` that knows its program."""

    def __init__(self, config: PlainConfig, program: Program) -> None:
        """Make one without weights, on PyTorch's meta device."""
        with torch.device("meta"):  # no random numbers are drawn, which would change the caller's next ones
            super().__init__(config)
        self.program = program


class ProgramTokenizer:
    """Stands where a model's tokenizer does: a compiled program's vocabulary."""

    def __init__(self, program: Program) -> None:
        """The vocabulary of a program."""
        self.program = program

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.program.tokens)

    def __call__(self, symbols: Sequence[Value]) -> list[int]:
        """The ids of some symbols, after that of `bos`.

        Raises:
            InputError: a symbol is not in the vocabulary.
        """
        known = {
            token: i for i, token in enumerate(self.program.tokens) if i not in (self.program.bos, self.program.pad)
        }
        if unknown := [symbol for symbol in symbols if symbol not in known]:
            shown = ", ".join(map(repr, known))
            raise InputError(f"{self.program.name}: no symbol {unknown[0]!r}; its vocabulary is {shown}")
        return [self.program.bos, *(known[symbol] for symbol in symbols)]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        return self.program.text(ids)


def save_compiled(module: CompiledTransformer, path: str | Path) -> None:
    """Write a compiled model, whole or not at all.

    Args:
        module: the model.
        path: the file, or a folder to write `program.safetensors` in.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path / FILE
    program = module.program
    plain = {key: getattr(program, key) for key in ("name", "tokens", "bos", "pad", "outputs", "complete", "origin")}
    header = {"schema": SCHEMA, "config": asdict(module.config), "program": plain}
    tensors = {f"weights.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {"inputs": program.inputs.to(torch.int16), "expected": program.expected.float()}
    write_tensors(path, tensors, header, entry=_ENTRY)


def load_compiled(path: str | Path) -> CompiledTransformer:
    """Read a compiled model.

    Raises:
        InputError: it is no such file, it is damaged, or it was written by a newer version.
    """
    what, instead = "a compiled program of edgewise", "write one with `edgewise tracr compile`"
    with reading_tensors(path, what, instead, entry=_ENTRY, schema=SCHEMA) as (header, tensors):
        plain = header["program"]
        outputs = None if plain["outputs"] is None else tuple(plain["outputs"])
        program = Program(
            **(plain | {"tokens": tuple(plain["tokens"]), "outputs": outputs}),
            inputs=tensors.pop("inputs").long(),
            expected=tensors.pop("expected"),
        )
        config = PlainConfig(**header["config"])
        check_depth(str(path), config.n_layers)
        module = CompiledTransformer(config, program)
        weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items()}
        module.load_state_dict(weights, assign=True)
        return module.eval()


def find_compiled(model: str | Path) -> Path | None:
    """The file of a compiled model, given one that comes with the package, its folder or the file itself; None for
    anything else.
    """
    if str(model) in SHIPPED:
        return Path(__file__).parent / "programs" / f"{str(model).removeprefix('tracr:')}.safetensors"
    path = user_path(model)
    if path.suffix == ".safetensors" and path.is_file() and _ENTRY in names_in(path):
        return path
    return path / FILE if (path / FILE).is_file() else None
