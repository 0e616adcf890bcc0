"""Graphs: influence, scores, pruning, sub-graphs, files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from edgewise import InputError
from edgewise.attribution import (
    AttributionConfig,
    AttributionGraph,
    attribute,
    check_asked,
    export,
    import_graph,
    influence,
    prune,
    scores,
    token_ids,
)
from edgewise.attribution._frozen import FrozenRun
from edgewise.viewer._attribution import arrays_of
from tests.attribution.test_rows import EVERYTHING, graph_of, prompt, transcoder
from tests.tiny import tiny


def features(config: AttributionConfig = EVERYTHING, **choices) -> AttributionGraph:
    model = tiny("gpt2")
    return graph_of(model, [transcoder(model, layer) for layer in (0, 1, 2)], config, **choices)


def dense_parts(graph: AttributionGraph) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.abs(graph.matrix.toarray())
    sizes[:, graph.nodes.is_kind("attention bias", "MLP bias", "reading bias").numpy()] = 0
    sums = sizes.sum(1, keepdims=True)
    weights = np.zeros(graph.n_nodes)
    weights[graph.nodes.is_kind("root").numpy()] = graph.root_weights.double().numpy()
    return sizes / np.where(sums > 0, sums, 1), weights


def test_influence_is_the_sum_over_all_paths() -> None:
    graph = features()
    matrix, weights = dense_parts(graph)
    expected = weights @ (np.linalg.inv(np.eye(len(weights)) - matrix) - np.eye(len(weights)))
    np.testing.assert_allclose(influence(graph).numpy(), expected, rtol=1e-10, atol=1e-14)


def test_scores_are_the_published_formulas() -> None:
    graph = features()
    matrix, weights = dense_parts(graph)
    found = weights @ (np.linalg.inv(np.eye(len(weights)) - matrix) - np.eye(len(weights)))
    tokens = found[graph.nodes.is_kind("token", "position").numpy()].sum()
    is_error = graph.nodes.is_kind("error").numpy()
    mass = found + weights
    expected = tokens / (tokens + found[is_error].sum()), mass @ (1 - matrix[:, is_error].sum(1)) / mass.sum()
    np.testing.assert_allclose(scores(graph), expected, rtol=1e-10)
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1


def test_without_errors_everything_is_explained() -> None:
    assert scores(graph_of(tiny("llama-gqa"))) == pytest.approx((1.0, 1.0))


def test_nothing_is_lost_in_a_pruned_graph() -> None:
    graph = features()
    pruned = prune(graph, 0.7, 0.9)
    assert pruned.n_nodes < graph.n_nodes
    targets = pruned.nodes.is_kind("feature", "root")
    shown = torch.from_numpy(np.asarray(pruned.matrix.sum(axis=1)).ravel())
    total = shown + pruned.ledger.outside + pruned.ledger.residual
    torch.testing.assert_close(total[targets], pruned.nodes.value[targets])
    inner = pruned.nodes.is_kind("feature").numpy()
    read = np.diff(pruned.matrix.tocsc().indptr) > 0
    assert read[inner].all()
    assert (np.diff(pruned.matrix.indptr) > 0)[inner].all()


def test_pruning_keeps_the_share_asked_for() -> None:
    graph = features()
    found = influence(graph)
    inner = graph.nodes.is_kind("feature", "error")
    kept = set(prune(graph, 0.5, 1.0).names)
    dropped = torch.tensor([name not in kept for name in graph.names]) & inner
    stays = torch.tensor([name in kept for name in graph.names]) & inner
    assert found[dropped].max() <= found[stays].max()
    assert found[~dropped].sum() >= 0.5 * found.sum()
    assert prune(graph, 1.0, 1.0).n_nodes <= graph.n_nodes


def test_what_removed_features_gave_goes_to_the_errors() -> None:
    graph = features()
    keep = graph.nodes.is_kind("feature") & (torch.arange(graph.n_nodes) % 3 == 0)
    moved = graph.with_errors(keep)
    assert not set(moved.names) & {graph.names[i] for i in (graph.nodes.is_kind("feature") & ~keep).nonzero()[:, 0]}
    targets = moved.nodes.is_kind("feature", "root")
    np.testing.assert_allclose(
        np.asarray(moved.matrix.sum(axis=1)).ravel()[targets], moved.nodes.value[targets], rtol=1e-9
    )
    assert scores(moved).replacement < scores(graph).replacement


def test_growth_takes_the_most_influential_first() -> None:
    whole = features()
    small = features(AttributionConfig(max_nodes=30, batch=8, keep=1.0, most_edges=10**6))
    assert int(small.nodes.is_kind("feature").sum()) == 30
    dense, numbers = whole.matrix.toarray(), {name: i for i, name in enumerate(whole.names)}
    places = [numbers[name] for name in small.names]
    np.testing.assert_allclose(small.matrix.toarray(), dense[np.ix_(places, places)], rtol=1e-12, atol=1e-14)
    order = influence(whole)[whole.nodes.is_kind("feature")].sort(descending=True).values
    chosen = influence(whole)[[numbers[name] for name in small.names if ".f" in name]]
    assert chosen.sum() > 0.9 * order[:30].sum()


def test_what_is_cut_is_added_up() -> None:
    whole, cut = features(), features(AttributionConfig(max_nodes=10**6, batch=70, keep=0.9, most_edges=10**6))
    assert cut.n_edges < whole.n_edges
    targets = cut.nodes.is_kind("feature", "root")
    shown = torch.from_numpy(np.asarray(cut.matrix.sum(axis=1)).ravel())
    torch.testing.assert_close((shown + cut.ledger.outside)[targets], cut.nodes.value[targets])
    sizes = torch.from_numpy(np.asarray(abs(cut.matrix).sum(axis=1)).ravel())
    assert (sizes[targets] >= 0.9 * cut.ledger.size[targets] - 1e-12).all()
    torch.testing.assert_close((sizes + cut.ledger.outside_size)[targets], cut.ledger.size[targets])


def test_files(tmp_path) -> None:
    graph = features()
    graph.save(tmp_path / "graph.safetensors")
    back = AttributionGraph.load(tmp_path / "graph.safetensors")
    assert back.names == graph.names
    assert abs(back.matrix - graph.matrix).max() == 0
    assert back.settings == graph.settings
    assert back.ledger.worst == graph.ledger.worst
    with pytest.raises(InputError, match="is saved as"):
        graph.save(tmp_path / "graph.pt")
    more = replace(graph, roots=(*graph.roots, "another"), root_weights=torch.ones(len(graph.roots) + 1))
    more.save(tmp_path / "more.safetensors")
    with pytest.raises(InputError, match=f"its nodes are not its {len(more.roots)} roots"):
        AttributionGraph.load(tmp_path / "more.safetensors")


@pytest.mark.parametrize("target", ["m2.f3@4", 7, [7, 8]])
def test_targets(target) -> None:
    graph = features(target=target)
    assert len(graph.roots) == (2 if isinstance(target, list) else 1)
    assert graph.ledger.worst < 1e-12


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"target": []}, "an empty list"),
        ({"target": [7, 0, 7]}, "token 7 is given twice"),
        ({"target": [0, 0]}, "token 0 is given twice"),
        ({"target": 1.5}, "target 1.5: give a token's text, or its number"),
        ({"target": "m2.f3@4", "contrast": True}, "contrast: of no tokens"),
        ({"contrast": True}, "contrast: of no tokens"),
        ({"target": [7], "contrast": True}, "contrast: of 1 tokens"),
        ({"dtype": torch.bfloat16}, "give float32 or float64"),
        ({"config": replace(EVERYTHING, neurons_per_token=3)}, "neurons_per_token 3: of neurons"),
        ({"config": replace(EVERYTHING, gate="up")}, "gate up: of neurons"),
        ({"ids": [1.9, 2.9, 3.9]}, "of type torch.float32; give whole numbers"),
        ({"ids": [[1, 2, 3]]}, r"of shape \[1, 3\]; give those of one prompt"),
        ({"ids": [1, "a"]}, "give whole numbers, or a text"),
        ({"ids": [2**70, 1]}, "give whole numbers, or a text"),
        ({"ids": []}, "prompt: 0 token"),
    ],
)
def test_what_is_no_graph_is_refused(choices: dict[str, Any], said: str) -> None:
    model = tiny("gpt2")
    with pytest.raises(InputError, match=said):
        graph_of(model, [transcoder(model, 1)], **choices)


def test_what_is_asked_for_is_refused_before_a_run() -> None:
    check_asked(tiny("gpt2"), prompt(), [7, 8], contrast=True)
    for target in (None, "m2.f3@4", ("probe", torch.zeros(3))):
        check_asked(tiny("gpt2"), prompt(), target)
    asked: list[tuple[torch.Tensor, int | None, bool, str]] = [
        (prompt()[:1], None, False, "two at least"),
        (prompt(), 99, False, "0 to 49"),
        (prompt(), 7, True, "of 1"),
    ]
    for ids, target, contrast, said in asked:
        with pytest.raises(InputError, match=said):
            check_asked(tiny("gpt2"), ids, target, contrast=contrast)


def test_a_target_without_probability_has_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = FrozenRun.logits
    monkeypatch.setattr(FrozenRun, "logits", lambda self, position=-1: 1e6 * logits(self, position))
    model = tiny("gpt2")
    probabilities = 1e6 * model.module(input_ids=prompt()[None]).logits[0, -1]
    target = int(probabilities.argmin())
    graph = graph_of(model, config=replace(EVERYTHING, max_nodes=20), target=target)
    assert int(graph.nodes.is_kind("neuron").sum()) == 20
    assert graph.root_weights.tolist() == pytest.approx([1e-30])
    assert scores(graph).completeness == pytest.approx(1.0) and prune(graph).n_edges < graph.n_edges


def test_a_contrast_is_the_difference_of_two_logits() -> None:
    graph, model = features(target=[7, 8], contrast=True), tiny("gpt2")
    logits = model.module(input_ids=graph.ids[None]).logits[0, -1]
    assert graph.roots == ("7 − 8",)
    assert float(graph.nodes.value[-1]) == pytest.approx((logits[7] - logits[8]).item())


def test_a_direction(tmp_path) -> None:
    direction = torch.randn(tiny("gpt2").parts.d_model, dtype=torch.float64)
    for none in (torch.zeros_like(direction), torch.where(direction == direction[0], torch.nan, direction)):
        with pytest.raises(InputError, match="a direction that is zero, or not finite"):
            features(target=("probe", none))
    graph = features(target=("probe", direction))
    assert graph.roots == ("probe",)
    assert graph.ledger.worst < 1e-12


def test_a_bos_token_may_stand_before_a_prompt_and_is_recorded():
    backend = Tokenizer(WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="<s>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    model = replace(tiny("gpt2"), tokenizer=tokenizer)
    few = replace(EVERYTHING, max_nodes=2)
    plain, told = attribute(model, "a b a", config=few), attribute(model, "a b a", config=replace(few, bos=True))
    assert (plain.ids.tolist(), told.ids.tolist()) == ([1, 2, 1], [0, 1, 2, 1])
    assert (plain.settings["bos"], told.settings["bos"]) == (None, True)
    assert token_ids(model, "<s> a b", True).tolist() == [0, 1, 2]  # not doubled


@pytest.mark.parametrize("target", ["m1.n3@2", "m1.n3@-1", 3])
def test_a_root_stands_where_its_target_does(target: str | int, tmp_path: Path):
    at = 2 if target == "m1.n3@2" else len(prompt()) - 1
    graph = graph_of(tiny("gpt2"), target=target)
    root = graph.nodes.is_kind("root")
    assert graph.nodes.position[root].tolist() == [at]
    assert int(graph.nodes.position[graph.sources[graph.edge_targets == root.nonzero()[0]]].max()) == at
    assert arrays_of(graph, "graph").position[root.numpy()].tolist() == [at]
    export(graph, tmp_path / "g.json")
    (node,) = (each for each in json.loads((tmp_path / "g.json").read_text())["nodes"] if each["is_target_logit"])
    assert node["ctx_idx"] == at and node["node_id"].endswith(f"_{at}")
    again = import_graph(tmp_path / "g.json").nodes
    assert again.position[again.is_kind("root")].tolist() == [at]
    told = any("before the last token" in note for note in export(graph, tmp_path / "g.pt"))
    assert told == (target == "m1.n3@2")
