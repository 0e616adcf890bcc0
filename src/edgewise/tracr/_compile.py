"""From a RASP program to a compiled model, with Tracr (Lindner et al. 2023, arXiv 2301.05062)."""

import importlib.util
import itertools
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import CompiledTransformer, PlainConfig, Program, Value

MOST_INPUTS = 4096
"""How many inputs are listed with a program; of more, a sample of this size."""
SAME = 1e-4
"""How far an output may be from Tracr's own; compiled programs multiply float32's rounding errors by 100."""
RIGHT = 0.05
"""How far an output may be from what the program says; a compiled number is an approximation."""
_BOS, _PAD = "BOS", "PAD"


def compile_program(
    program: Any,
    vocabulary: Sequence[Value],
    max_length: int,
    *,
    name: str = "program",
    longest: int | None = None,
    seed: int = 0,
) -> CompiledTransformer:
    """Compile a RASP program, and check the result against Tracr's own on every input listed with it.

    Args:
        program: a `tracr.rasp.rasp.SOp`.
        vocabulary: the symbols that its inputs are made of.
        max_length: symbols that an input may have.
        name: what to call it.
        longest: symbols of the longest input to list; `max_length` if None.
        seed: of the sample of inputs, where there are more than `MOST_INPUTS`.

    Returns:
        The model in float32, and in it the inputs on which the program is defined (it says something other than None
        at every position), with what it says.

    Raises:
        InputError: Tracr is not installed or cannot compile the program, the program is defined on no input, or what
            Tracr made of it does not compute it.
    """
    rasp = tracr_module("rasp.rasp")
    vocabulary, longest = tuple(vocabulary), max_length if longest is None else longest
    _check_sizes(name, vocabulary, max_length, longest)
    if not isinstance(program, rasp.SOp):
        raise InputError(f"{name}: a {type(program).__name__} is no RASP program; give a tracr.rasp.rasp.SOp")
    assembled = _assemble(name, program, vocabulary, max_length)
    sequences, complete = _sequences(vocabulary, longest, seed)
    ids = dict(assembled.input_encoder.encoding_map)
    outputs = _outputs(assembled)
    said = [(sequence, program(list(sequence))) for sequence in sequences]
    defined = [(sequence, values) for sequence, values in said if all(value is not None for value in values)]
    if not defined:
        raise InputError(
            f"{name}: the program's output has a None on each of its {len(said)} inputs; give other symbols or lengths"
        )
    inputs, expected = _tables(name, defined, ids, outputs)
    origin = {
        "compiler": f"tracr-pypi {version('tracr-pypi')}",
        "vocabulary": list(vocabulary),
        "max_length": max_length,
        "longest_listed": longest,
        "undefined_inputs": len(said) - len(defined),
        "residual": list(assembled.residual_labels),
    }
    tokens = tuple(sorted(ids, key=lambda token: ids[token]))
    shown = None if outputs is None else tuple(x if isinstance(x, str | int | float) else str(x) for x in outputs)
    description = Program(name, tokens, ids[_BOS], ids[_PAD], shown, inputs, expected, complete, origin)
    module = _convert(assembled, description)
    _compare(module, assembled)
    return module


def load_source(source: str) -> tuple[str, Any]:
    """A program from `path/to/file.py:name`, where `name` is a RASP program or a function that makes one. The file is
    run.

    Returns:
        Its name and the program.

    Raises:
        InputError: it is not of that form, there is no such file or name, or the file fails.
    """
    path, _, name = source.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise InputError(f"program {source!r}: give a Python file and a name in it, such as my_rasp.py:program")
    if not Path(path).is_file():
        raise InputError(f"program {source!r}: there is no file {path!r}")
    tracr_module("rasp.rasp")
    specification = importlib.util.spec_from_file_location("edgewise_rasp_program", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
        found = getattr(module, name)
        return name, found() if callable(found) and not hasattr(found, "named") else found
    except Exception as error:  # it is the user's own code, which may fail in any way
        raise InputError(f"program {source!r}: {type(error).__name__}: {' '.join(str(error).split())[:160]}") from error


def tracr_module(module: str) -> ModuleType:
    """A module of Tracr, which is imported late: it is optional, and JAX takes a second."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the models are tiny, and PyTorch may want the GPU
    try:
        return importlib.import_module(f"tracr.{module}")
    except ImportError as error:
        raise InputError(f"Tracr is not installed ({error}); pip install 'edgewise[tracr]'") from error


def _check_sizes(name: str, vocabulary: tuple[Value, ...], max_length: int, longest: int) -> None:
    if not vocabulary or len(set(vocabulary)) < len(vocabulary):
        raise InputError(f"{name}: vocabulary {list(vocabulary)}; give different symbols, at least one")
    if bad := [symbol for symbol in vocabulary if not isinstance(symbol, str | int | float)]:
        raise InputError(f"{name}: symbol {bad[0]!r} is a {type(bad[0]).__name__}; use texts and numbers")
    if reserved := {_BOS, _PAD} & set(vocabulary):
        raise InputError(f"{name}: symbol {min(map(str, reserved))!r} is reserved by the compiler; rename it")
    if not 1 <= longest <= max_length:
        raise InputError(f"{name}: inputs of up to {longest} symbols of at most {max_length}; use 1 to {max_length}")


def _assemble(name: str, program: Any, vocabulary: tuple[Value, ...], max_length: int) -> Any:
    compiling = tracr_module("compiler.compiling")
    try:
        return compiling.compile_rasp_to_model(
            program, set(vocabulary), max_length, compiler_bos=_BOS, compiler_pad=_PAD
        )
    except Exception as error:  # Tracr raises whatever it stumbles over; the user needs one line
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: Tracr cannot compile it ({type(error).__name__}: {reason[:200]}); see its list of what RASP it "
            "supports"
        ) from error


def _sequences(vocabulary: tuple[Value, ...], longest: int, seed: int) -> tuple[list[tuple[Value, ...]], bool]:
    """All inputs in order of length, or a sample of them with each length as often; and whether it is all."""
    lengths = range(1, longest + 1)
    if sum(len(vocabulary) ** n for n in lengths) <= MOST_INPUTS:
        return [sequence for n in lengths for sequence in itertools.product(vocabulary, repeat=n)], True
    generator, share = np.random.default_rng(seed), MOST_INPUTS // longest
    found: list[tuple[Value, ...]] = []
    for n in lengths:
        if len(vocabulary) ** n <= share:
            found += itertools.product(vocabulary, repeat=n)
        else:
            drawn = generator.integers(len(vocabulary), size=(share, n)).tolist()
            found += dict.fromkeys(tuple(vocabulary[i] for i in row) for row in drawn)
    return found, False


def _outputs(assembled: Any) -> list[Any] | None:
    """What the outputs stand for, in order; None for a number."""
    known = getattr(assembled.output_encoder, "encoding_map", None)
    return None if known is None else sorted(known, key=lambda value: known[value])


def _tables(
    name: str, defined: list[tuple[tuple[Value, ...], list[Any]]], ids: dict[Any, int], outputs: list[Any] | None
) -> tuple[Int[Tensor, "n S"], Float[Tensor, "n S"]]:
    width = 1 + max(len(sequence) for sequence, _ in defined)
    inputs = torch.full((len(defined), width), ids[_PAD])
    expected = torch.full((len(defined), width), torch.nan, dtype=torch.float32)
    for row, (sequence, values) in enumerate(defined):
        inputs[row, : len(sequence) + 1] = torch.tensor([ids[_BOS], *(ids[symbol] for symbol in sequence)])
        if outputs is not None and (strange := [value for value in values if value not in outputs]):
            raise InputError(f"{name}: it says {strange[0]!r} on {list(sequence)}, which Tracr gave no output")
        said = [float(value) if outputs is None else float(outputs.index(value)) for value in values]
        expected[row, 1 : len(sequence) + 1] = torch.tensor(said)
    return inputs, expected


def _convert(assembled: Any, program: Program) -> CompiledTransformer:
    """The same weights as a `PlainTransformer`."""
    params = {
        name: {key: torch.tensor(np.array(x)) for key, x in each.items()} for name, each in assembled.params.items()
    }
    shape = assembled.model_config
    tokens, positions = params["token_embed"]["embeddings"], params["pos_embed"]["embeddings"]
    unembed = _unembedding(assembled, tokens.shape[1])  # (D, V)
    config = PlainConfig(
        vocab_size=len(tokens),
        n_positions=len(positions),
        n_layers=shape.num_layers,
        n_heads=shape.num_heads,
        d_model=tokens.shape[1],
        d_head=shape.key_size,
        d_mlp=shape.mlp_hidden_size,
        d_out=unembed.shape[1],
        causal=shape.causal,
    )
    weights = {"tokens.weight": tokens, "positions.weight": positions, "unembed.weight": unembed.T.contiguous()}
    weights["unembed.bias"] = torch.zeros(unembed.shape[1], dtype=torch.float32)
    for name, source in _linear_layers(shape.num_layers):
        weights[f"{name}.weight"] = params[source]["w"].T.contiguous()
        weights[f"{name}.bias"] = params[source]["b"]
    module = CompiledTransformer(config, program)
    module.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    return module.eval()


def _linear_layers(n_layers: int) -> Iterator[tuple[str, str]]:
    """Our name and Haiku's of each linear layer."""
    for layer in range(n_layers):
        ours, theirs = f"blocks.{layer}", f"transformer/layer_{layer}"
        for name, source in (("query", "query"), ("key", "key"), ("value", "value"), ("output", "linear")):
            yield f"{ours}.{name}", f"{theirs}/attn/{source}"
        for place, source in ((0, "linear_1"), (2, "linear_2")):
            yield f"{ours}.mlp.{place}", f"{theirs}/mlp/{source}"


def _unembedding(assembled: Any, d_model: int) -> Float[Tensor, "D V"]:
    """The matrix that Tracr closes over, by what it makes of the identity."""
    import haiku  # pyright: ignore[reportMissingImports] (optional)

    def apply(x: Any) -> Any:
        return assembled.get_compiled_model().unembed(x, use_unembed_argmax=False)

    unembedded = haiku.without_apply_rng(haiku.transform(apply)).apply({}, np.eye(d_model, dtype=np.float32))
    return torch.tensor(np.array(unembedded)).view(d_model, -1)


@torch.no_grad()
def _compare(module: CompiledTransformer, assembled: Any) -> None:
    """Raise unless the model's outputs are Tracr's own, and its answers the program's, on every listed input."""
    import jax  # pyright: ignore[reportMissingImports] (optional)

    program = module.program
    forward = jax.jit(assembled.forward)
    furthest = 0.0
    for length in program.lengths.unique().tolist():
        chosen = program.lengths == length
        ids, expected = program.inputs[chosen, :length], program.expected[chosen, 1:length]
        ours: Tensor = module(ids).logits
        result = forward(assembled.params, ids.numpy())
        theirs = torch.tensor(np.array(result.transformer_output.output)) @ module.unembed.weight.T
        decoded = torch.tensor(np.array(result.unembedded_output))
        furthest = max(furthest, float((ours - theirs).abs().max()))
        answers = ours[..., 0] if program.outputs is None else ours.argmax(-1)
        if furthest > SAME or float((answers - decoded)[:, 1:].abs().max()) > SAME:
            off = f"the converted model is off Tracr's own by {furthest:.1e}"
            raise InputError(f"{program.name}: {off}; please report it")
        wrong = ((answers[:, 1:] - expected).abs() > (RIGHT if program.outputs is None else 0)).any(1).nonzero()[:, 0]
        if len(wrong):
            raise InputError(
                f"{program.name}: what Tracr made of it is wrong on {program.text(ids[wrong[0]].tolist())!r}; Tracr "
                "compiles some programs to others without saying so, see tracr.compiler.validating"
            )
    program.origin["largest_difference_from_tracr"] = furthest
