"""What a circuit says by itself, against slow code on plain hooks."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise.circuit import Circuit, empty_circuit
from edgewise.engine import Ablation, Engine
from edgewise.evaluation import generate
from edgewise.models import load
from tests.discovery.hooks import LAYOUTS
from tests.independent.circuits import all_edges, circuit_logits, written
from tests.tiny import VOCABULARY, random_model, refused, tiny

CLEAN, CORRUPTED = (3, 1, 4, 1, 5), (3, 2, 4, 6, 5)
FAMILIES = {"gpt2": ("gpt2", 0), "llama-gqa": ("llama", 0), "neox-parallel": ("neox", 5)}
"""A tiny model of each: its layout, and a seed with which the circuit below says more than one token over and over."""


def some(engine: Engine, share: float, seed: int = 0) -> Circuit:
    n = engine.graph.n_edges
    return Circuit(engine.graph, torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share)


def every(engine: Engine) -> Circuit:
    return Circuit(engine.graph, torch.ones(engine.graph.n_edges, dtype=torch.bool))


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_circuit_goes_on_as_its_own_logits_say(name: str, ablation: str):
    family, seed = FAMILIES[name]
    engine = Engine(random_model(name, seed=seed), ablation=Ablation(ablation))  # pyright: ignore[reportArgumentType]
    module, layout, parallel = engine.model.module, LAYOUTS[family], "parallel" in name
    edges, circuit = all_edges(module, layout, parallel), some(engine, 0.4)
    kept = {edge for edge, one in zip(edges, circuit.kept.tolist(), strict=True) if one}
    paired = ablation == "interchange"
    said: list[int] = []
    for _ in range(4):
        ids, other = (torch.tensor([[*begun, *said]]) for begun in (CLEAN, CORRUPTED))
        ablated = written(module, layout, other) if paired else None
        logits = circuit_logits(module, layout, ids, edges, kept, ablated, parallel)
        said.append(int(logits[0, -1].argmax()))
    found = generate(engine, circuit, CLEAN, CORRUPTED if paired else None, n=4)
    assert list(found.circuit.ids) == said and found.circuit.text is None
    assert found.model.ids != found.circuit.ids or len(set(said)) > 1, "a case that tells something"


def test_all_edges_are_the_model_and_none_the_corrupted_prompts():
    engine = Engine(tiny("llama-gqa"))
    module: Any = engine.model.module
    full, none = every(engine), empty_circuit(every(engine))
    said = [generate(engine, each, CLEAN, CORRUPTED, n=5) for each in (full, none)]
    for begun, found in ((CLEAN, said[0].circuit), (CLEAN, said[0].model), (CORRUPTED, said[1].circuit)):
        given = torch.tensor([begun])
        own = module.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=5, do_sample=False)
        assert list(found.ids) == own[0, len(begun) :].tolist()


def test_what_ends_a_text_is_its_last_token():
    model = random_model("llama-gqa")
    engine = Engine(model)
    first, second, *_ = generate(engine, every(engine), CLEAN, CORRUPTED, n=3).model.ids
    model.module.generation_config.eos_token_id = [second, VOCABULARY + 1]  # pyright: ignore
    found = generate(engine, every(engine), CLEAN, CORRUPTED, n=3)
    assert found.model.ids == found.circuit.ids == (first, second)


def test_what_cannot_be_continued_is_refused_before_any_token():
    engine = Engine(tiny("gpt2"))
    circuit = some(engine, 0.5)
    most = engine.model.parts.n_positions
    assert most is not None
    for given, words in (
        ({"corrupted": None}, "corrupted: the removed edges' ablation is interchange; give the prompt whose run they"),
        ({"corrupted": CORRUPTED[:-1]}, "corrupted: 4 tokens, and the prompt has 5"),
        ({"prompt": (VOCABULARY,) * 5}, f"token {VOCABULARY}; the model has tokens 0 to {VOCABULARY - 1}"),
        ({"prompt": "a text"}, "prompt: the model has no tokenizer; give token ids"),
        ({"prompt": (), "corrupted": ()}, "prompt: no token; give one at least"),
        ({"n": 0}, "generate: n=0; give 1 or more"),
        ({"n": most}, f"tokens, and the model has {most} positions"),
    ):
        choices: dict[str, Any] = {"prompt": CLEAN, "corrupted": CORRUPTED} | given
        assert words in refused(lambda choices=choices: generate(engine, circuit, **choices))
    zero = Engine(tiny("gpt2"), ablation=Ablation("zero"))
    assert "ablation is zero; leave it out" in refused(lambda: generate(zero, circuit, CLEAN, CORRUPTED))
    grouped = Engine(tiny("gpt2"), engine.model.graph(spans=("rest", "name")))
    assert "position groups" in refused(lambda: generate(grouped, every(grouped), CLEAN, CORRUPTED))
    program = Engine(load("tracr:reverse"))
    assert "compiled program" in refused(lambda: generate(program, every(program), CLEAN, CORRUPTED))


def test_numbers_that_are_not_finite_are_no_token():
    model = random_model("gpt2")
    with torch.no_grad():
        model.module.get_submodule("transformer.ln_f").weight.fill_(torch.nan)  # pyright: ignore
    engine = Engine(model)
    words = refused(lambda: generate(engine, every(engine), CLEAN, CORRUPTED))
    assert words == "token 1: its logits are not finite; check the model's weights and type"


@pytest.mark.unchecked
def test_what_is_no_row_of_tokens_is_refused():
    engine, wrong = Engine(tiny("gpt2")), (0.5,) * 5
    said = refused(lambda: generate(engine, some(engine, 0.5), wrong, CORRUPTED))  # pyright: ignore[reportArgumentType]
    assert said == "prompt: not a row of token ids; give whole numbers, or a text"


def test_a_circuit_of_another_ablation_or_graph_is_refused():
    engine = Engine(tiny("gpt2"))
    zero = replace(every(engine), ablation=Ablation("zero"))
    assert "engine: its ablation is Ablation(kind='interchange'" in refused(
        lambda: generate(engine, zero, CLEAN, CORRUPTED)
    )
    one, other = (Engine(tiny("gpt2"), tiny("gpt2").graph(neurons={1: each})) for each in ((5, 6), (0, 1)))
    assert "another than the one to run" in refused(lambda: generate(one, every(other), CLEAN, CORRUPTED))
    assert generate(engine, every(engine), torch.tensor(CLEAN).tolist(), CORRUPTED, n=1).model.ids
