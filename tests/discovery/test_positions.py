"""Edges that carry positions: each named span of the prompts has all edges for itself, in every method."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import edgewise as ew
from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import Scores, check_able, method, methods, run_method, uniform_scores
from edgewise.discovery._explain import metric_sum
from edgewise.discovery._objective import example_scores
from edgewise.engine import Engine, Stream
from edgewise.exchange import edge_table, from_edge_table, to_networkx, write_edges, write_mib
from edgewise.graph import Graph, GraphSpec
from edgewise.runs import settings_of
from edgewise.tasks import Pair, Target, Task, metric_function

from ..tiny import ONE_OF_EACH, VOCABULARY, tiny

SPANS = ("rest", "subject", "end")
QUIET = ew.RunOptions(progress=False)


def task(n: int = 6) -> Task:
    """Random pairs of 7 tokens in three groups that interleave."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (n, 2, 7), generator=generator).tolist()
    target = (Target(6, (1,), (2,)),)
    pairs = [Pair(tuple(a), tuple(b), target, "", "", spans=(1, 0, 1, 1, 0, 2, 2)) for a, b in ids]
    return Task("random", pairs, pairs[:3], pairs[3:], span_names=SPANS)


def engines(name: str = "gpt2", dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Engine, Engine]:
    model = tiny(name, dtype)
    return Engine(model, model.graph(spans=SPANS), **options), Engine(model, **options)


# The graph


def test_edges_are_numbered_group_by_group_and_named():
    graph, plain = Graph(GraphSpec(2, 2, 1, spans=SPANS)), Graph(GraphSpec(2, 2, 1))
    assert graph.n_edges == 3 * plain.n_edges and graph.n_plain == plain.n_edges and graph.n_groups == 3
    for edge in (0, plain.n_edges - 1, plain.n_edges, 2 * plain.n_edges + 5):
        name = graph.edge_name(edge)
        assert name == f"{plain.edge_name(edge % plain.n_edges)} @ {SPANS[edge // plain.n_edges]}"
        assert graph.edge_id(name) == edge
    assert torch.equal(graph.edge_writer, plain.edge_writer.repeat(3))
    assert GraphSpec(**graph.spec.to_dict()) == graph.spec and "spans" not in plain.spec.to_dict()


@pytest.mark.parametrize("name", ["embed -> a0.h0.q", "embed -> a0.h0.q @ middle"])
def test_names_without_a_group_are_refused(name):
    with pytest.raises(
        InputError, match=r"expected 'writer -> reader', such as '.* @ rest'|no position group 'middle'"
    ):
        Graph(GraphSpec(2, 2, 2, spans=SPANS)).edge_id(name)


def test_spans_must_differ():
    with pytest.raises(InputError, match="give names that differ"):
        GraphSpec(2, 2, 2, spans=("a", "a"))


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@torch.no_grad()
def test_what_cannot_carry_signal_changes_no_logit(name, ablation):
    engine, _ = engines(name, ablation=ew.Ablation(ablation))
    batch = task().batch("train", range(6))
    dropped = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(engine.graph.n_edges, generator=generator) < (0.03 + 0.03 * (seed % 6))
        actual = engine.graph.prune(kept, ablation)
        assert not bool((actual & ~kept).any()) and torch.equal(engine.graph.prune(actual, ablation), actual)
        dropped += int((kept & ~actual).sum())
        both = [engine.run(batch, each.double(), skip=False) for each in (kept, actual)]
        torch.testing.assert_close(*both, rtol=0, atol=1e-9)
    assert dropped


# The engine


@torch.no_grad()
def test_equal_groups_are_the_plain_circuit_and_rows_of_groups_are_one_mask():
    engine, plain = engines()
    batch = task().batch("train", range(6))
    mask = torch.rand(plain.graph.n_edges, dtype=torch.float64)
    same = engine.run(batch, mask.repeat(3))
    torch.testing.assert_close(same, plain.run(batch, mask), rtol=0, atol=1e-9)
    mask = torch.rand(2, 3, plain.graph.n_edges, dtype=torch.float64)
    by_group = plain.run(batch, mask)  # a plain graph's mask may have groups too
    torch.testing.assert_close(engine.run(batch, mask), by_group, rtol=0, atol=0)
    torch.testing.assert_close(engine.run(batch, mask.view(2, 1, -1)), by_group, rtol=0, atol=0)
    torch.testing.assert_close(engine.run(batch, mask[0].flatten()), by_group[0], rtol=0, atol=1e-9)
    assert not torch.allclose(by_group[0], plain.run(batch, mask[0, 0]))


def test_masks_of_a_wrong_size_are_refused():
    engine, plain = engines()
    batch = task().batch("train", [0])
    for shape in ((plain.graph.n_edges,), (1, 2, engine.graph.n_edges), (0, 1, engine.graph.n_edges)):
        with pytest.raises(InputError, match="mask: shape"):
            engine.run(batch, torch.zeros(shape))


# The methods


@pytest.mark.parametrize("method", [ew.eap, ew.mask_ig])
def test_scores_of_the_groups_sum_to_the_plain_scores(method):
    engine, plain = engines("llama-gqa")
    by_group = method(engine, task()).values.view(3, -1)
    torch.testing.assert_close(by_group.sum(0), method(plain, task()).values, rtol=0, atol=1e-5)
    assert by_group.abs().amax(1).min() > 0


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
@pytest.mark.parametrize(
    "method",
    [ew.relevance, ew.eap_ig, lambda engine, task: ew.eap_ig(engine, task, path="activations", points=3)],
    ids=["relevance", "eap-ig", "eap-ig-activations"],
)
def test_stream_methods_split_their_scores_by_group(name, method):
    """Groups sum to the plain scores; and where one token alone is in a group, to what it adds."""
    engine, plain = engines(name)
    by_group = method(engine, task()).values.view(3, -1)
    torch.testing.assert_close(by_group.sum(0), method(plain, task()).values, rtol=0, atol=1e-9)
    assert by_group.abs().amax(1).min() > 0


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_streams_clean_gradient_by_group_is_the_engines(name, side):
    """EAP on the stream (relevance without rules) is EAP on masks, group by group, lengths and padding mixed."""
    model, pairs = tiny(name, torch.float64), list(task().train)
    short = [Pair(p.clean[2:], p.corrupted[2:], (Target(4, (1,), (2,)),), "", "", spans=(2, 1, 0, 0, 1)) for p in pairs]
    mixed = Task("mixed", [pairs[0], short[1], pairs[2], short[3]], (), (), span_names=SPANS)
    engine = Engine(model, model.graph(spans=SPANS))
    batch = mixed.batch("train", range(4), side)
    stream, objective = Stream(engine, batch, groups=True), metric_sum(engine, mixed, batch)
    masks = torch.ones(engine.graph.n_edges, dtype=torch.float64, requires_grad=True)
    score = metric_function("logit_diff")
    example_scores(engine, batch, masks, score, gradients="all").sum().backward()
    torch.testing.assert_close(stream.edge_gradients(objective), masks.grad, rtol=0, atol=1e-9)


def test_flow_by_group_is_the_mean_over_its_own_positions():
    engine, plain = engines()
    by_group = ew.information_flow(engine, task()).values.view(3, -1)
    sizes = torch.tensor([2, 3, 2], dtype=torch.float64) / 7  # of the groups of `task`
    logits = plain.graph.blocks[-1].edges
    expected = ew.information_flow(plain, task()).values
    torch.testing.assert_close((sizes @ by_group)[: logits.start], expected[: logits.start], rtol=0, atol=1e-9)
    torch.testing.assert_close(by_group[:, logits], torch.stack([0 * expected, 0 * expected, expected])[:, logits])


SMALL = {"steps": 4, "batch_size": 3, "points": 2, "pairs": 2, "sparsity": 0.8}
SMALL |= {"methods": ("eap-ig", "information-flow")}
METHODS = tuple(methods())
WHOLE = tuple(name for name, each in methods().items() if not each.positions)


def found(name: str, engine: Engine) -> Circuit:
    record = method(name)
    config = record.configure({key: value for key, value in SMALL.items() if key in settings_of(record.config)})
    start = uniform_scores(engine.graph) if record.start == "must" else None
    result = run_method(record, engine, task(), config, options=QUIET, start=start)
    return result.at(0.8, actual=True, absolute=True) if isinstance(result, Scores) else result


@pytest.mark.parametrize("name", WHOLE)
def test_methods_that_do_not_tell_positions_apart_say_so(name):
    engine, _ = engines("gpt2", torch.float32)
    with pytest.raises(InputError, match="edges carry positions") as refusal:
        found(name, engine)
    assert len(str(refusal.value).splitlines()) == 1
    for record, changes in ((method(name), {}), (method("ensemble"), {"methods": ("eap", "node-eap")})):
        with pytest.raises(
            InputError, match="^--positions: .* does not tell positions apart; choose ranking, ranking-"
        ):
            check_able(record, record.configure(changes), "positions", "--positions")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WHOLE])
def test_all_others_find_a_circuit_that_is_saved_and_judged(name, tmp_path: Path):
    engine, _ = engines("gpt2", torch.float32)
    circuit = found(name, engine)
    assert circuit.kept.shape == (engine.graph.n_edges,) and 0 < circuit.n_edges <= engine.graph.n_edges
    assert len({edge.rpartition(" @ ")[2] for edge in circuit.edge_names()}) > 1
    circuit.save(tmp_path / "circuit.safetensors")
    again = Circuit.load(tmp_path / "circuit.safetensors")
    assert again.graph == circuit.graph and torch.equal(again.kept, circuit.kept)
    results = [ew.evaluate(engine, each, task(), batch_size=3) for each in (circuit, again)]
    assert results[0].metrics == results[1].metrics and results[0].total_edges == engine.graph.n_edges


def test_a_task_with_other_groups_is_refused(tmp_path: Path):
    engine, _ = engines("gpt2", torch.float32)
    plain = Task("plain", task().train, (), ())
    several = (ew.eap, ew.eap_ig, ew.relevance, ew.information_flow, lambda *of: ew.learn_ranking(*of, options=QUIET))
    for run in (partial(each, engine, plain) for each in several):
        with pytest.raises(
            InputError, match=r"plain: its pairs have no position groups, and the graph's edges carry rest"
        ):
            run()


def test_a_circuit_with_positions_is_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    engine, _ = engines("gpt2", torch.float32)
    ew.draw(found("eap", engine), tmp_path / "circuit.svg")
    assert (tmp_path / "circuit.svg").stat().st_size


# Elsewhere


def test_tables_name_the_group_and_formats_without_positions_refuse(tmp_path: Path):
    engine, _ = engines("gpt2", torch.float32)
    circuit = found("eap", engine)
    table = edge_table(circuit)
    assert set(table["span"]) <= set(SPANS)
    again = from_edge_table(table, circuit.graph)
    assert torch.equal(again.kept, circuit.kept)
    with pytest.raises(InputError, match="has no column 'span'"):
        from_edge_table({name: column for name, column in table.items() if name != "span"}, circuit.graph)
    for write in (
        lambda: write_edges(circuit, tmp_path / "edges.json"),
        lambda: write_mib(circuit, tmp_path / "c.pt", 32),
    ):
        with pytest.raises(InputError, match="carry other positions"):
            write()


def test_tables_become_networks_with_an_edge_for_each_group():
    pytest.importorskip("networkx")
    engine, _ = engines("llama-gqa", torch.float32)
    circuit = found("eap", engine)
    network = to_networkx(circuit)
    assert {data["edge"] for _, _, data in network.edges(data=True)} == set(circuit.kept.nonzero()[:, 0].tolist())
    assert all(key.rpartition(" @ ")[2] in SPANS for _, _, key in network.edges(keys=True))
