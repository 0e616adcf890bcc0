"""Evidence: effects are those of exact patching, predictions those of model and circuit; the page says both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgewise import InputError
from edgewise.discovery import eap, exact_patching
from edgewise.engine import Engine
from edgewise.evaluation import WorstExample
from edgewise.models import load
from edgewise.tasks import Pair, Target, Task
from edgewise.viewer import Evidence, Viewed, gather, looks
from edgewise.viewer._circuits import pack_circuits
from edgewise.viewer._pack import Packer
from tests.discovery.toys import random_task, toy_engine
from tests.viewer.conftest import measured


@pytest.fixture(scope="module")
def found() -> tuple[Any, Any, Any, Evidence]:
    engine, task = toy_engine(), random_task()
    circuit = eap(engine, task).at(0.5, actual=True, absolute=True)
    return engine, task, circuit, gather(engine, circuit, task, 7, examples=[2, 0])


def test_effects_are_those_of_exact_patching(found: tuple[Any, Any, Any, Evidence]):
    engine, task, circuit, evidence = found
    exact = exact_patching(engine, replace(task, metric=task.explained), split="test", pairs=4)
    assert evidence.effects == pytest.approx(exact.values[list(evidence.edges)].tolist(), abs=1e-6)
    assert len(evidence.edges) == 7 and circuit.actual[list(evidence.edges)].all()
    sizes = circuit.scores.abs()[list(evidence.edges)]
    assert (sizes.diff() <= 0).all() and sizes.min() >= circuit.scores.abs()[circuit.actual].topk(7).values.min()


def test_effects_by_pair_are_those_of_one_pair_each(found: tuple[Any, Any, Any, Evidence]):
    engine, task, _, evidence = found
    for number in range(4):
        alone = replace(task, metric=task.explained, test=task.test[number : number + 1])
        exact = exact_patching(engine, alone, split="test", pairs=1).values[list(evidence.edges)]
        assert [row[number] for row in evidence.by_pair] == pytest.approx(exact.tolist(), abs=1e-5)
    assert [len(prompt) for prompt in evidence.prompts] == [len(pair.clean) for pair in task.test]


@torch.no_grad()
@pytest.mark.parametrize("role", [0, 1])
def test_a_look_is_the_heads_attention_with_the_edge_and_without_it(role: int):
    """The embedding's edge into a query or key of GPT-2's first layer, by the module's own weights."""
    engine, task = toy_engine(dtype=torch.float64), random_task()
    graph, pair, head = engine.graph, task.test[1], 1
    reader = graph.readers_of(graph.writer(0, head))[role]
    look = looks(engine, task, "test", [int(graph.offset[reader])], [1])[0]
    assert look is not None and look.head == head and look.example == 1
    transformer: Any = engine.model.module.transformer
    layer, n_heads, place = transformer.h[0], transformer.h[0].attn.num_heads, torch.arange(len(pair.clean))
    parts = []
    for tokens in (pair.clean, pair.corrupted):
        x = layer.ln_1(transformer.wte(torch.tensor(tokens)) + transformer.wpe(place))
        q, k, _ = layer.attn.c_attn(x).split(x.shape[1], 1)
        parts.append([each.view(len(tokens), n_heads, -1)[:, head] for each in (q, k)])
    without = [parts[1][0], parts[0][1]] if role == 0 else [parts[0][0], parts[1][1]]

    def attention(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        scores = query @ key.T / query.shape[1] ** 0.5
        return scores.masked_fill(~torch.ones_like(scores).tril().bool(), -torch.inf).softmax(-1)

    before, after = attention(*parts[0]), attention(*without)
    assert look.query == int((before - after).abs().sum(1).argmax())
    for key, with_it, without_it in look.keys:
        assert with_it == pytest.approx(float(before[look.query, key]), abs=1e-9)
        assert without_it == pytest.approx(float(after[look.query, key]), abs=1e-9)


def test_predictions_are_the_models_and_the_circuits(found: tuple[Any, Any, Any, Evidence]):
    engine, task, circuit, evidence = found
    assert [each.number for each in evidence.predictions] == [2, 0]
    batch = task.batch("test", [0])
    for who, logits in (("model", engine.full(batch)), ("circuit", engine.run(batch, circuit.kept.float()))):
        shares = logits[-1].softmax(-1)
        said = getattr(evidence.predictions[1], who)
        assert [share for _, share in said] == pytest.approx(torch.topk(shares, 5).values.tolist(), abs=1e-6)
    assert len(evidence.predictions[1].clean) == len(task.test[0].clean)


def test_it_is_saved_and_read_again(found: tuple[Any, Any, Any, Evidence], tmp_path: Path):
    found[3].save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json") == found[3]
    (tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(InputError, match="not what `edgewise view --evidence` wrote"):
        Evidence.load(tmp_path / "wrong.json")


def test_it_is_known_of_which_circuit_it_is(found: tuple[Any, Any, Any, Evidence]):
    _, _, circuit, evidence = found
    other = replace(circuit, kept=circuit.kept.roll(1))
    same_size = replace(evidence, actual_edges=other.n_actual)
    assert evidence.is_of(circuit) and not same_size.is_of(other)
    assert replace(same_size, circuit="").is_of(other), "files of earlier versions go by their sizes"


@pytest.mark.parametrize(("split", "name"), [("test", ""), ("train", "the train split")])
def test_examples_of_another_split_are_not_shown_as_those_that_were_predicted(
    found: tuple[Any, Any, Any, Evidence], split: str, name: str
):
    """The page looks predictions up by number, for an evaluation without a name."""
    _, _, circuit, evidence = found
    judged = replace(measured(circuit), conditions={"split": split})
    for known in (evidence, None):
        packed = pack_circuits([Viewed(circuit, "toy", {"": judged}, evidence=known)], Packer())["circuits"][0]
        assert [each["name"] for each in packed["evaluations"]] == [name]


def test_the_page_says_both(found: tuple[Any, Any, Any, Evidence], open_page: Callable[..., Any]):
    _, _, circuit, evidence = found
    worst = (WorstExample(2, 1.0, "a b", "a c"),)
    judged = {"": replace(measured(circuit), worst=worst)}
    tab = open_page(Viewed(circuit, "toy", judged, evidence=evidence))
    text = tab.locator(".panel").inner_text()
    assert f"Largest exact effects (on {evidence.metric})" in text
    most = max(range(7), key=lambda i: abs(evidence.effects[i]))
    name = circuit.graph.edge_name(evidence.edges[most]).replace("->", "→")
    tab.locator(".panel .rows").nth(1).locator(".row").first.click()
    text = tab.locator(".panel").inner_text()
    assert text.startswith(name) and "mean of 4 pairs" in text
    most_on = max(range(4), key=lambda i: abs(evidence.by_pair[most][i]))
    matters = tab.locator(".panel .examples li").first.inner_text()
    assert f"example {most_on}" in matters and "".join(evidence.prompts[most_on]) in matters
    looking = next(i for i, look in enumerate(evidence.looks) if look is not None)
    tab.evaluate("edge => { location.hash = `edge=${edge}` }", evidence.edges[looking])
    tab.get_by_text("Where its head looks").wait_for()
    shown = tab.locator(".panel tbody tr").first.inner_text()
    look = evidence.looks[looking]
    assert look is not None and f"@{look.keys[0][0]}" in shown and f"{100 * look.keys[0][1]:.1f} %" in shown
    tab.get_by_role("button", name="Examples").click()
    section = tab.get_by_label("Example 0", exact=True)
    shares = [f"{100 * share:.1f} %" for _, share in evidence.predictions[1].circuit]
    assert all(each in section.inner_text() for each in shares)
    within = tab.locator(".panel ol.examples li").get_by_label("Predictions on example 2").inner_text()
    assert all(f"{100 * share:.1f} %" in within for _, share in evidence.predictions[0].circuit)
    answer = "".join(f"“{token}”" for token in evidence.predictions[0].answers)
    assert f"right answer {answer}" in tab.locator(".panel ol.examples li").inner_text()
    rest = next(edge for edge in circuit.actual.nonzero()[:, 0].tolist() if edge not in evidence.edges)
    tab.evaluate("edge => { location.hash = `edge=${edge}` }", rest)
    tab.get_by_text("they were for the strongest 7 only").wait_for()


def test_a_model_with_few_output_tokens_names_all_of_them():
    small: Any = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}
    module = GPT2LMHeadModel(GPT2Config(vocab_size=4, **small))
    pairs = [Pair((0, 1, 2), (0, 2, 1), (Target(2, (1,), (2,)),), "a b c", "a c b")]
    engine, task = Engine(load(module.eval())), Task("few", pairs, pairs, pairs)
    circuit = eap(engine, task).at(0.5)
    said = gather(engine, circuit, task, 1).predictions[0]
    assert len(said.model) == len(said.circuit) == 4
