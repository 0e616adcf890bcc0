"""Learned constants and node masks: at a minimum, saved whole, resumed exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise import evaluate
from edgewise.circuit import Circuit
from edgewise.discovery import (
    eap,
    edge_pruning,
    engine_under,
    learn_ranking,
    learn_rankings,
    learned_engine,
    load_constants,
    mask_ig,
    node_ig,
    node_pruning,
    optimal_constants,
    save_constants,
)
from edgewise.discovery._learned_constants import Jointly
from edgewise.discovery._node_pruning import NodePruningConfig, NodePruningLearner
from edgewise.discovery._objective import example_scores
from edgewise.discovery._scores import normal_scores
from edgewise.engine import Ablation, Engine
from edgewise.tasks import loss_function
from tests.discovery.toys import Killed, quiet, random_task, toy_engine
from tests.engine.apart import with_neurons
from tests.tiny import refused, tiny


def _half(engine: Engine, seed: int = 0) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    return Circuit(engine.graph, torch.rand(engine.graph.n_edges, generator=generator) < 0.5)


def _loss(engine: Engine, circuit: Circuit, task: Any) -> Tensor:
    batch = task.batch("train", range(len(task.train)))
    return example_scores(engine, batch, circuit.kept.double(), loss_function(task.loss)).mean()


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_optimal_constants_are_a_local_minimum(name: str):
    model, task = tiny(name), random_task(6)
    start = learned_engine(model, task)
    circuit = _half(start)
    before = _loss(start, circuit, task).item()
    settings: dict[str, Any] = {"steps": 120, "batch_size": 6, "learning_rate": 0.08}
    engine, found = optimal_constants(model, task, circuit, options=quiet(), **settings)
    loss = _loss(engine, found, task)
    assert loss.item() < 0.7 * before
    assert engine.constants is not None
    constants = engine.constants.tensors()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(12):  # a small step anywhere makes it worse, or no better
            steps = [
                torch.randn(x.shape, generator=generator, dtype=x.dtype) * x.square().mean().sqrt() for x in constants
            ]
            for x, step in zip(constants, steps, strict=True):
                x += 0.05 * step
            assert _loss(engine, found, task) > loss - 1e-6
            for x, step in zip(constants, steps, strict=True):
                x -= 0.05 * step


def test_they_beat_the_means_that_they_start_from_in_evaluation_too(tmp_path: Path):
    model, task = tiny("gpt2", torch.float32), random_task(12)
    circuit = eap(toy_engine(), task).at(0.6, absolute=True)
    start = learned_engine(model, task)
    engine, found = optimal_constants(model, task, circuit, options=quiet(), steps=60, learning_rate=0.02)
    plain = Circuit(found.graph, found.kept, None, found.provenance | {"ablation": start.ablation.to_dict()})
    losses = [
        evaluate(each, judged, task, split="train", baselines=()).metrics["kl"].value
        for each, judged in ((start, plain), (engine, found))
    ]
    assert losses[1] < 0.9 * losses[0]
    save_constants(engine, tmp_path / "constants.safetensors")
    loaded = load_constants(model, tmp_path / "constants.safetensors")
    again = evaluate(loaded, found, task, split="train", baselines=()).metrics["kl"].value
    assert again == losses[1]
    assert found.provenance["ablation"]["kind"] == "learned"


@pytest.mark.parametrize("method", ["ranking", "edge-pruning", "node-pruning"])
def test_constants_are_learned_jointly_with_the_masks(method: str):
    model, task = tiny("gpt2", torch.float32), random_task(8)
    engine = learned_engine(model, task)
    assert engine.constants is not None
    before = [x.detach().clone() for x in engine.constants.tensors()]
    run: Any = {"ranking": learn_ranking, "edge-pruning": edge_pruning, "node-pruning": node_pruning}[method]
    result = run(engine, task, options=quiet(), steps=6, batch_size=4)
    moved = [float((x.detach() - y).abs().max()) for x, y in zip(engine.constants.tensors(), before, strict=True)]
    assert sum(m > 0 for m in moved) >= len(moved) - 1
    assert result.provenance["ablation"]["kind"] == "learned"


@pytest.mark.parametrize("same", [False, True], ids=["an engine each", "one engine, whose constants have moved"])
def test_a_killed_joint_run_gives_the_same_bits(same: bool, tmp_path: Path, monkeypatch):
    task = random_task(8)
    kept = learned_engine(tiny("gpt2", torch.float32), task)

    def run(out: Path | None) -> tuple[Tensor, list[Tensor]]:
        engine = kept if same and out else learned_engine(tiny("gpt2", torch.float32), task)
        scores = learn_ranking(engine, task, options=quiet(out), steps=6, batch_size=4)
        assert engine.constants is not None
        return scores.values, [x.detach().clone() for x in engine.constants.tensors()]

    values, constants = run(None)
    step = Jointly.step

    def failing(self: Jointly, number: int):
        if number == 3:
            raise Killed
        return step(self, number)

    monkeypatch.setattr(Jointly, "step", failing)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.setattr(Jointly, "step", step)
    again, others = run(tmp_path)
    assert torch.equal(again, values)
    assert all(torch.equal(x, y) for x, y in zip(others, constants, strict=True))


def test_what_optimal_ablation_refuses(tmp_path: Path):
    model, task = tiny("gpt2", torch.float32), random_task(4)
    engine = toy_engine()
    assert "another graph or ablation" in refused(lambda: optimal_constants(engine, task, _half(engine)))
    assert "steps 0; give at least 1" in refused(lambda: optimal_constants(model, task, _half(engine), steps=0))
    assert "no constants" in refused(lambda: save_constants(engine, tmp_path / "c.safetensors"))
    assert "constants of an ablation" in refused(lambda: load_constants(model, tmp_path / "none.safetensors"))


def test_the_same_call_twice_is_the_same_run_although_the_constants_moved(tmp_path: Path):
    engine, task = learned_engine(tiny("gpt2", torch.float32), random_task(8)), random_task(8)
    runs = [learn_ranking(engine, task, options=quiet(tmp_path), steps=3, batch_size=4) for _ in range(2)]
    assert torch.equal(runs[0].values, runs[1].values)


def test_patience_is_refused_with_learned_constants():
    engine = learned_engine(tiny("gpt2", torch.float32), random_task(4))
    assert "learned constants are the last" in refused(lambda: learn_ranking(engine, random_task(4), patience=1))


def test_steps_that_remove_edges_and_several_rankings_are_refused_with_learned_constants():
    task = random_task(4)
    engine = learned_engine(tiny("gpt2", torch.float32), task)
    assert "spoil the behaviour; use joint=0" in refused(lambda: learn_ranking(engine, task, joint=0.5))
    assert "2 seeds on one engine" in refused(lambda: learn_rankings(engine, task, (0, 1)))
    fixed = engine_under(engine.model, task, "mean")  # which are nobody's to learn
    assert len(learn_rankings(fixed, task, (0, 1), joint=0.5, steps=1, warm_examples=0, options=quiet())) == 2


def test_constants_of_a_half_precision_model_are_learned_in_single(monkeypatch: pytest.MonkeyPatch):
    model = tiny("gpt2", torch.float16)
    engine = learned_engine(model, random_task(4))
    assert engine.constants is not None
    assert {x.dtype for x in engine.constants.tensors()} == {torch.float32}


# ---------------------------------------------------------------------------------------------------------------- nodes


def test_a_writer_s_mask_is_that_of_all_its_edges():
    learner = NodePruningLearner(toy_engine(), random_task(), NodePruningConfig(steps=3))
    learner.begin()
    mask, graph = learner.mask(5.0, 0.2).detach(), learner.engine.graph
    for writer in range(graph.n_writers):
        assert len(mask[graph.edge_writer == writer].unique()) == 1
    one_each = torch.stack([mask[graph.edge_writer == w][0] for w in range(graph.n_writers)])
    assert float(one_each.sum()) == pytest.approx(5.0, rel=1e-3)


def test_node_pruning_starts_from_the_mean_sizes_of_effects():
    task, config = random_task(), NodePruningConfig(steps=3, warm_examples=5, batch_size=2)
    few = replace(task, train=task.train[:5])
    whole = NodePruningLearner(toy_engine(), task, config)
    whole.begin()
    wanted = node_ig(toy_engine(), few, average="absolute").writers
    assert wanted is not None and torch.equal(whole.scores.detach(), normal_scores(wanted))
    assert whole.start_passes == {"forwards": 7, "backwards": 5}
    engine = with_neurons(tiny("gpt2", torch.float32), "interchange", {0: (1, 4), 2: (0,)})
    apart = NodePruningLearner(engine, task, config)
    apart.begin()
    edges = mask_ig(engine, few, average="absolute").values
    sums = [edges[engine.graph.edge_writer == writer].sum() for writer in range(engine.graph.n_writers)]
    assert torch.equal(apart.scores.detach().argsort(), torch.stack(sums).argsort())


def test_node_pruning_lowers_the_loss_of_its_circuits():
    engine, task = toy_engine(), random_task(12)
    start = node_pruning(engine, task, options=quiet(), steps=1, warm_examples=0, learning_rate=1e-9)
    found = node_pruning(engine, task, options=quiet(), steps=60, batch_size=12, warm_examples=0)
    assert start.writers is not None and found.writers is not None

    def loss(writers: Tensor) -> float:
        kept = (writers[engine.graph.edge_writer.long()] > 0.5).float()
        batch = task.batch("train", range(12))
        with torch.no_grad():
            return float(example_scores(engine, batch, kept, loss_function("kl")).mean())

    assert loss(found.writers) < 0.9 * loss(start.writers)
    assert found.provenance["method"]["steps"] == 60
    cost = found.provenance["cost"]  # sixty masked passes, and once the full and the corrupted run
    assert (cost["forwards_per_example"], cost["backwards_per_example"], cost["examples"]) == (62, 60, 12)


def test_node_pruning_refuses_no_steps_and_runs_without_embeddings():
    settings: dict[str, Any] = {"steps": 5, "batch_size": 4}
    assert "node-pruning" in refused(lambda: node_pruning(toy_engine(), random_task(), steps=0))
    off = Engine(tiny("gpt2", torch.float32), tiny("gpt2", torch.float32).graph("off"), Ablation("zero"))
    assert torch.isfinite(node_pruning(off, random_task(), options=quiet(), **settings).values).all()


def test_how_edges_were_chosen_is_kept():
    """By which other sizes are cut out of the scores."""
    task, model = random_task(), tiny("gpt2", torch.float32)
    for absolute in (True, False):
        circuit = eap(model, task).at(0.5, absolute=absolute)
        assert optimal_constants(model, task, circuit, steps=1, options=quiet())[1].selection == circuit.selection
