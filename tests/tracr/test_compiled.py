"""Compiled programs: what ships computes what it says, loads without JAX, and is refused when damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import edgewise as ew
from edgewise import InputError
from edgewise.models import SHIPPED, CompiledTransformer, ProgramTokenizer, load_compiled, save_compiled
from edgewise.models._compiled import find_compiled

BY_HAND = {
    "tracr:reverse": lambda symbols: symbols[::-1],
    "tracr:xproportion": lambda symbols: [symbols[: i + 1].count("x") / (i + 1) for i in range(len(symbols))],
}


def _module(name: str) -> CompiledTransformer:
    path = find_compiled(name)
    assert path is not None
    return load_compiled(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_it_says_what_the_program_says_on_every_input(name):
    module = _module(name)
    program = module.program
    assert program.complete and len(program.inputs) == (39 if name == "tracr:reverse" else 340)
    for ids, length in zip(program.inputs, program.lengths.tolist(), strict=True):
        symbols = [program.tokens[i] for i in ids[1:length]]
        said = module(ids[None, :length]).logits[0, 1:]
        wanted = BY_HAND[name](symbols)
        if program.outputs is None:
            torch.testing.assert_close(said[:, 0], torch.tensor(wanted), atol=1e-3, rtol=0)
        else:
            assert [program.outputs[i] for i in said.argmax(-1)] == wanted


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_right_beyond_the_inputs_listed_too(name):
    module = _module(name)
    symbols = [i for i in range(len(module.program.tokens)) if i not in (module.program.bos, module.program.pad)]
    drawn = torch.tensor(symbols)[torch.randint(len(symbols), (50, module.config.n_positions - 1))]
    ids = torch.cat([torch.full((50, 1), module.program.bos), drawn], 1)
    said = module(ids).logits[:, 1:]
    for row, each in zip(drawn, said, strict=True):
        wanted = BY_HAND[name]([module.program.tokens[i] for i in row])
        if module.program.outputs is None:
            torch.testing.assert_close(each[:, 0], torch.tensor(wanted), atol=1e-3, rtol=0)
        else:
            assert [module.program.outputs[i] for i in each.argmax(-1)] == wanted


def test_loading_needs_no_jax_and_draws_no_random_numbers():
    code = (
        "import sys, torch, edgewise as ew\n"
        "before = torch.random.get_rng_state()\n"
        "model = ew.load_model('tracr:reverse')\n"
        "ew.tasks.program(model.tokenizer)\n"
        "assert torch.equal(before, torch.random.get_rng_state())\n"
        "assert not {'jax', 'haiku', 'tracr'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**__import__("os").environ, "PYTHONPATH": "src"})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_or_its_folder_stands_for_the_model(tmp_path: Path, name):
    module = _module(name)
    save_compiled(module, tmp_path)
    for place in (tmp_path, tmp_path / "program.safetensors"):
        again = ew.load_model(place)
        assert isinstance(again.module, CompiledTransformer) and isinstance(again.tokenizer, ProgramTokenizer)
        assert again.module.config == module.config
        assert all(torch.equal(again.module.state_dict()[key], value) for key, value in module.state_dict().items())
        assert torch.equal(again.module.program.inputs, module.program.inputs)
        assert again.module.program.tokens == module.program.tokens
    assert ew.load_model(tmp_path, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("embeddings", ["joint", "split"])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_engine_reproduces_it(name, embeddings):
    from edgewise.engine import check

    assert check(ew.load_model(name), embeddings=embeddings).passed


def test_what_is_no_compiled_program_is_refused(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a compiled program"):
        load_compiled(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not a compiled program"):
        load_compiled(path)
    save_compiled(_module("tracr:reverse"), path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        header = json.loads(file.metadata()["edgewise-program"])
    save_file(tensors, path, metadata={"edgewise-program": json.dumps(header | {"schema": 99})})
    with pytest.raises(InputError, match="newer edgewise"):
        load_compiled(path)
    tensors.pop("weights.blocks.0.query.weight")
    save_file(tensors, path, metadata={"edgewise-program": json.dumps(header)})
    with pytest.raises(InputError, match="not a compiled program"):
        load_compiled(path)


def test_symbols_become_ids():
    tokenizer = ew.load_model("tracr:reverse").tokenizer
    assert tokenizer([1, 3]) == [tokenizer.program.bos, 0, 2]
    with pytest.raises(InputError, match=r"no symbol 7; its vocabulary is 1, 2, 3"):
        tokenizer([7])
    with pytest.raises(InputError, match="no symbol 'BOS'"):
        tokenizer(["BOS"])
