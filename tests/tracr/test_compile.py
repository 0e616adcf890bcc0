"""Compiling: equal to Tracr's own output, programs of the user's own, and what is refused. Needs the extra `tracr`."""

import itertools
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.models import SHIPPED, CompiledTransformer, load, load_compiled, save_compiled
from edgewise.models._compiled import find_compiled
from edgewise.tracr import (
    LIBRARY,
    Agreement,
    _search,
    compare,
    compile_library,
    compile_program,
    find_truth,
    load_source,
    rank_program,
    smallest_agreeing,
)
from edgewise.tracr import _compile as compiler

pytest.importorskip("tracr", reason="the extra tracr is not installed")

from tracr.compiler import lib  # pyright: ignore[reportMissingImports] (optional)
from tracr.rasp import rasp  # pyright: ignore[reportMissingImports] (optional)

OWN = """
from tracr.rasp import rasp

def program():
    first = rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == 0).named("first")
    return rasp.Aggregate(first, rasp.tokens).named("first_symbol")

also = rasp.Map(lambda x: x == "a", rasp.tokens).named("is_a")
broken = 1 / 0 if False else 3
"""


def _shipped(name: str) -> CompiledTransformer:
    path = find_compiled(f"tracr:{name}")
    assert path is not None
    return load_compiled(path)


@cache
def _compiled(name: str) -> tuple[CompiledTransformer, Any]:
    """A program of the library as it is compiled now, and Tracr's own model of it: some seconds' work."""
    assemble, made = compiler._assemble, []

    def keeping(*arguments: Any) -> Any:
        made.append(assemble(*arguments))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "_assemble", keeping)
        return compile_library(name), made[0]


@pytest.mark.parametrize("name", ["reverse", "xproportion"])
def test_what_ships_is_what_tracr_makes_now(name):
    shipped, (made, _) = _shipped(name), _compiled(name)
    assert made.config == shipped.config and made.program.tokens == shipped.program.tokens
    assert torch.equal(made.program.inputs, shipped.program.inputs)
    assert all(torch.equal(value, shipped.state_dict()[key]) for key, value in made.state_dict().items())


# All take a minute: `EDGEWISE_PROGRAMS=all pytest tests/tracr/test_compile.py`. These have all kinds of output, of
# attention and of inputs.
COMPILED = ("hist", "pair_balance", "sort_unique")
if os.environ.get("EDGEWISE_PROGRAMS") == "all":
    COMPILED = tuple(name for name in LIBRARY if f"tracr:{name}" not in SHIPPED)


@pytest.mark.parametrize("name", COMPILED)
def test_the_rest_of_the_library_compiles_to_what_tracr_computes(name):
    # Compiling compares outputs, the decoded ones too, on every input listed, and refuses what differs: see below.
    program, entry = _compiled(name)[0].program, LIBRARY[name]
    assert program.origin["largest_difference_from_tracr"] < 1e-5
    n_all = sum(len(entry.vocabulary) ** length for length in range(1, entry.longest + 1))
    assert program.complete and len(program.inputs) == {"sort_unique": 64}.get(name, n_all)


def test_a_model_that_is_off_tracrs_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    real = CompiledTransformer.forward

    def off(self: CompiledTransformer, *args: Any, **kwargs: Any):
        output = real(self, *args, **kwargs)
        output.logits[..., 0] += 1e-3
        return output

    theirs = _compiled("hist")[1]
    monkeypatch.setattr(compiler, "_assemble", lambda *_: theirs)
    monkeypatch.setattr(CompiledTransformer, "forward", off)
    with pytest.raises(InputError, match="hist: the converted model is off Tracr's own by 1.0e-03"):
        compile_library("hist")


@pytest.mark.parametrize("name", ["reverse", "xproportion"])
def test_outputs_are_tracrs_own_on_every_input(name):
    entry, module, assembled = LIBRARY[name], _shipped(name), _compiled(name)[1]
    import jax  # pyright: ignore[reportMissingImports] (optional)

    forward = jax.jit(assembled.forward)
    for length in range(1, entry.max_length + 1):
        ids = [[assembled.input_encoder.encoding_map[x] for x in ("BOS", *symbols)]
               for symbols in itertools.product(entry.vocabulary, repeat=length)]  # fmt: skip
        theirs = forward(assembled.params, np.array(ids))
        ours = module(torch.tensor(ids)).logits
        residual = torch.tensor(np.array(theirs.transformer_output.output))
        torch.testing.assert_close(ours, residual @ module.unembed.weight.T, atol=1e-5, rtol=0)
        decoded = torch.tensor(np.array(theirs.unembedded_output))
        answers = ours[..., 0] if module.program.outputs is None else ours.argmax(-1)
        torch.testing.assert_close(answers[:, 1:], decoded[:, 1:].to(answers.dtype), atol=1e-5, rtol=0)


def test_a_program_of_the_users_own(tmp_path: Path):
    (tmp_path / "my_rasp.py").write_text(OWN)
    name, program = load_source(f"{tmp_path}/my_rasp.py:program")
    module = compile_program(program, ["a", "b"], 3, name=name)
    assert module.program.name == "program" and len(module.program.inputs) == 2 + 4 + 8
    said = module(module.program.inputs[-8:]).logits[:, 1:].argmax(-1)
    assert module.program.outputs is not None
    values = [[module.program.outputs[i] for i in row] for row in said]
    assert values == [[x] * 3 for x in "aaaabbbb"]
    assert load_source(f"{tmp_path}/my_rasp.py:also")[0] == "also"


def test_the_program_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(_search.RANKING, "steps", 30)
    monkeypatch.setitem(_search.REFINED, "steps", 20)
    page = (Path(__file__).parents[2] / "docs" / "tracr.md").read_text()
    (tmp_path / "my_rasp.py").write_text(page.split("```python\n")[1].split("```")[0])
    name, program = load_source(f"{tmp_path}/my_rasp.py:program")
    save_compiled(compile_program(program, ["a", "b", "c"], 4, name=name), tmp_path / "share.safetensors")
    model = load(str(tmp_path / "share.safetensors"))
    engine = ew.Engine(model, model.graph("joint"), ew.Ablation("zero"))
    agreement = Agreement(engine)
    task = ew.tasks.program(model.tokenizer)
    scores = rank_program(engine, task, agreement, options=ew.RunOptions(progress=False))
    assert compare(smallest_agreeing(scores, agreement), find_truth(engine)).exact


def test_long_inputs_are_sampled_the_same_each_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiler, "MOST_INPUTS", 200)
    program = rasp.Map(lambda x: x + 1, rasp.tokens).named("plus_one")  # pyright: ignore[reportOperatorIssue] (a number here)
    theirs = compiler._assemble("program", program, (0, 1, 2), 5)
    monkeypatch.setattr(compiler, "_assemble", lambda *_: theirs)  # once, for all three
    first, again, other = (compile_program(program, [0, 1, 2], 5, seed=seed).program for seed in (0, 0, 1))
    assert not first.complete and len(first.inputs) <= 200
    assert torch.equal(first.inputs, again.inputs) and not torch.equal(first.inputs, other.inputs)


def test_what_cannot_be_compiled_is_refused(tmp_path: Path):
    (tmp_path / "my_rasp.py").write_text(OWN)
    for source, what in (
        ("my_rasp.py", "a Python file and a name in it"),
        (f"{tmp_path}/none.py:program", "there is no file"),
        (f"{tmp_path}/my_rasp.py:nothing", "AttributeError"),
    ):
        with pytest.raises(InputError, match=what):
            load_source(source)
    tokens = rasp.tokens
    for program, vocabulary, max_length, what in (
        (3, ["a"], 2, "no RASP program"),
        (tokens, [], 2, "at least one"),
        (tokens, ["a", "a"], 2, "different symbols"),
        (tokens, ["BOS", "a"], 2, "reserved by the compiler"),
        (tokens, ["a"], 0, "use 1 to 0"),
        (rasp.numerical(tokens), [1, 2], 2, "Tracr cannot compile it"),
        (lib.shift_by(1, tokens), ["a", "b"], 2, "has a None on each of its 6 inputs"),
    ):
        with pytest.raises(InputError, match=what):
            compile_program(program, vocabulary, max_length)
    with pytest.raises(InputError, match=r"no program 'sorted'; choose count,"):
        compile_library("sorted")


def test_a_program_that_tracr_gets_wrong_is_refused():
    # A categorical average, which Tracr turns into something else without a word.
    everywhere = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE).named("everywhere")
    program = rasp.categorical(rasp.Aggregate(everywhere, rasp.tokens)).named("average")
    with pytest.raises(InputError, match="what Tracr made of it is wrong|gave no output|cannot compile"):
        compile_program(program, [0, 1], 3)
