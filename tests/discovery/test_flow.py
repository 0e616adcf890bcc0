"""Information flow and ensembles: the formula written out, and ranks."""

import pytest
import torch

from edgewise.discovery import (
    EnsembleConfig,
    Scores,
    eap,
    ensemble,
    find_ensemble,
    information_flow,
    learn_ranking,
    method,
    run_method,
    uniform_scores,
)
from edgewise.discovery._ensemble import mean_ranks
from edgewise.engine import Ablation, Engine
from edgewise.graph import Graph, GraphSpec
from tests.discovery.hook_scores import FAMILIES
from tests.discovery.hooks import LAYOUTS, writes
from tests.discovery.toys import SMALLEST, near, quiet, random_task, toy_engine
from tests.tiny import refused, tiny


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_flow_is_the_paper_s_formula(name: str, family: str):
    engine, task = Engine(tiny(name)), random_task(3)
    graph, expected = engine.graph, torch.zeros(engine.graph.n_edges, dtype=torch.float64)
    for pair in task.train:
        written = writes(engine.model.module, LAYOUTS[family], torch.tensor(pair.clean))
        biases = [layer.attention.output_bias for layer in engine.model.parts.layers]
        z = [written[name] for name in graph.writer_names]
        for reader in range(graph.n_readers):
            n, layer = int(graph.visible[reader]), int(graph.reader_layer[reader])
            owned = [b for i, b in enumerate(biases) if b is not None and graph.n_embeddings + i * 5 + 3 < n]
            x = torch.stack(z[:n]).sum(0) + sum(owned)
            positions = [t.position for t in pair.targets] if layer == 3 else list(range(len(pair.clean)))
            for t in positions:
                near_x = [max(float(x[t].abs().sum() - (x[t] - z[w][t]).abs().sum()), 0.0) for w in range(n)]
                for w in range(n):
                    edge = int(graph.offset[reader]) + w
                    expected[edge] += near_x[w] / sum(near_x) / len(positions) / len(task.train)
    near(information_flow(engine, task, batch_size=2).values, expected, 1e-8)


def test_flow_shares_sum_to_one_and_need_no_counterfactual():
    engine, task = toy_engine(dtype=torch.float64), random_task(4)
    values = information_flow(engine, task).values
    sums = torch.zeros(engine.graph.n_readers, dtype=torch.float64)
    near(sums.index_add_(0, engine.graph.edge_reader.long(), values), torch.ones_like(sums), 1e-12)
    cost = information_flow(engine, task).provenance["cost"]
    assert (cost["forwards_per_example"], cost["backwards_per_example"]) == (1, 0)


def test_ranks_of_equal_values_are_equal_and_nan_is_lowest():
    assert mean_ranks(torch.tensor([5.0, 1.0, 5.0, torch.nan])).tolist() == [3.5, 2, 3.5, 1]


def test_an_ensemble_of_one_has_its_order_and_units_do_not_matter():
    engine, task = toy_engine(), random_task(4)
    one = eap(engine, task)
    assert torch.equal(ensemble([one]).top(30).kept, one.top(30, absolute=True).kept)
    louder = Scores(one.graph, one.values * 1000, one.provenance)
    other = uniform_scores(engine.graph)
    torch.testing.assert_close(ensemble([one, other]).values, ensemble([louder, other]).values)
    assert torch.equal(ensemble([one, other], weights=(1, 0)).top(30).kept, one.top(30, absolute=True).kept)
    signed = ensemble([one, other], weights=(1, 0), absolute=(False, True))
    assert torch.equal(signed.top(30).kept, one.top(30).kept)
    assert [m["name"] for m in ensemble([one, other]).provenance["method"]["of"]] == ["eap", "random"]


def test_an_ensemble_has_the_ablation_that_all_have_in_common():
    engine, task = toy_engine(), random_task(4)
    zero = eap(engine.under(Ablation("zero")), task)
    shared = eap(engine.under(Ablation("zero", bias="shared")), task)
    both = ensemble([zero, zero])
    assert both.ablation == both.at(0.5).stated_ablation == Ablation("zero")
    for other in (eap(engine, task), shared):
        assert ensemble([zero, other]).ablation == "mixed"
        assert ensemble([zero, zero, other]).at(0.5).ablation_kind == "mixed"


def test_an_ensemble_is_the_sum_of_reciprocal_ranks():
    graph = uniform_scores(SMALLEST).graph
    one, other = (torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(s)).float() for s in (0, 1))
    found = ensemble([Scores(graph, one, {}), Scores(graph, -other, {})], weights=(2, 1), absolute=(False, True))
    ranks = [graph.n_edges - x.argsort().argsort() for x in (one, other)]  # 1 for the highest
    expected = 2 / (60 + ranks[0]) + 1 / (60 + ranks[1])
    in_order = expected[found.values.argsort()]
    assert bool((in_order.diff() > -1e-9).all()) and in_order[-1] > in_order[0]
    assert abs(float(found.values.mean())) < 1e-3 and found.values.isfinite().all()


def test_an_ensemble_starts_a_learned_ranking():
    engine, task = toy_engine(), random_task()
    start = ensemble([eap(engine, task), information_flow(engine, task)])
    learned = learn_ranking(engine, task, start=start, steps=2, options=quiet())
    assert learned.provenance["method"]["start"]["name"] == "ensemble"


def test_what_ensembles_refuse():
    one, other = uniform_scores(SMALLEST), uniform_scores(Graph(GraphSpec(2, 1, 1)))
    assert "no scores" in refused(lambda: ensemble([]))
    assert "different graphs" in refused(lambda: ensemble([one, other]))
    assert "weights" in refused(lambda: ensemble([one, one], weights=(1,)))
    assert "weights" in refused(lambda: ensemble([one, one], weights=(0, 0)))


def test_each_member_is_ranked_as_its_record_says():
    found = find_ensemble(toy_engine(), random_task(), methods=("eap", "random"))
    assert found.provenance["method"]["absolute"] == [True, False]


def test_the_method_says_what_its_members_took_together_and_refuses_weights_at_once():
    engine, task = toy_engine(), random_task()
    cost = find_ensemble(engine, task, methods=("eap", "information-flow")).provenance["cost"]
    members = map(method, ("eap", "information-flow"))
    each = [run_method(one, engine, task, one.configure()).provenance["cost"] for one in members]
    assert cost["examples"] == len(task.train)
    assert cost["forwards_per_example"] == sum(one["forwards_per_example"] for one in each)
    for weights in ((1.0,), (1.0, -1.0), (0.0, 0.0), ()):
        assert "weights" in refused(lambda weights=weights: EnsembleConfig(methods=("eap", "mask-ig"), weights=weights))
