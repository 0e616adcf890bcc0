"""Changed nodes: frozen, an edge's worth; open, what the module itself does; in the module, each prompt by itself."""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise import InputError
from edgewise.attribution import AttributionConfig, Edit, EditedRun, attribute, editing, frozen_run, intervene, nodes_of
from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.transcoders import Transcoder
from tests.attribution.reference import norm_of
from tests.attribution.test_rows import transcoder
from tests.tiny import CONFIGURATIONS, ONE_OF_EACH, VOCABULARY, random_model, tiny

EVERYTHING = AttributionConfig(max_nodes=10**6, batch=70, keep=1.0, most_edges=10**6, neurons_per_token=0)
QUIET = RunOptions(progress=False)
N = 6
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def prompt(n: int = N, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed))


def sets_of(model: Model, kind: str = "relu", read: str = "mlp_in", **changes) -> list[Transcoder]:
    return [transcoder(model, layer, kind, read, **changes) for layer in range(len(model.parts.layers))]


def crossing(model: Model) -> list[Transcoder]:
    last = len(model.parts.layers) - 1
    return [transcoder(model, layer, last=last) for layer in range(last + 1)]


def own(model: Model, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.module(input_ids=ids[None]).logits[0]


def edits_of(letter: str) -> list[Edit]:
    return [
        Edit(f"m0.{letter}1@2", "scale", 3.0),
        Edit(f"m0.{letter}4@1:", "set", 0.7),
        Edit(f"m0.{letter}4@3", "add", 0.2),
        Edit(f"m1.{letter}2", "ablate"),
        Edit(f"m1.{letter}1@1,4", "add", -1.5),
    ]


# ---------------------------------------------------------------------------------------------------------------- open


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name not in ("gpt-oss", "granite")])  # no module
def test_open_edits_of_neurons_are_what_the_module_does(name: str) -> None:
    model, ids = tiny(name), prompt()
    letter = "n" if model.parts.layers[0].mlp.down is not None else "f"
    nodes: Any = "neurons" if letter == "n" else sets_of(model)
    found = intervene(model, ids, edits_of(letter), nodes)
    torch.testing.assert_close(found.before, own(model, ids), **CLOSE)
    with editing(model, edits_of(letter), nodes):
        torch.testing.assert_close(found.after, own(model, ids), **CLOSE)
    assert not torch.allclose(found.after, found.before, atol=1e-3)
    assert torch.equal(intervene(model, ids, [], nodes).after, found.before)


@pytest.mark.parametrize(
    ("read", "kind"), [("mlp_in", "topk:4"), ("mlp_normalized", "jumprelu"), ("resid_mid", "batch_topk:4")]
)
@pytest.mark.parametrize("name", ["gpt2", "neox-parallel", "gemma3", "gpt-oss"])
def test_open_edits_of_features_are_what_the_module_does(name: str, read: str, kind: str) -> None:
    model, ids = tiny(name), prompt()
    sets = sets_of(model, kind, read, input_bias=True, exclude_special=True)
    found = intervene(model, ids, edits_of("f"), sets)
    with editing(model, edits_of("f"), sets):
        torch.testing.assert_close(found.after, own(model, ids), **CLOSE)
    assert not torch.allclose(found.after, found.before, atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel", "gemma3"])
def test_a_cross_layer_feature_is_edited_in_every_layer_that_it_writes_to(name: str) -> None:
    model, ids = tiny(name), prompt()
    sets = crossing(model)
    found = intervene(model, ids, edits_of("f"), sets)
    with editing(model, edits_of("f"), sets):
        torch.testing.assert_close(found.after, own(model, ids), **CLOSE)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel", "gemma3"])
def test_scaling_a_neuron_is_scaling_its_row_of_the_last_matrix(name: str) -> None:
    model, ids = random_model(name), prompt()
    found = intervene(model, ids, [Edit("m0.n3", "scale", -2.0), Edit("m1.n5")])
    for layer, neuron, factor in ((0, 3, -2.0), (1, 5, 0.0)):
        down = model.parts.layers[layer].mlp.down
        assert down is not None
        down[neuron] *= factor  # a view of the module's own weight
    torch.testing.assert_close(found.after, own(model, ids), **CLOSE)


def test_a_feature_is_read_in_the_run_under_way() -> None:
    model, ids = tiny("gpt2"), prompt()
    sets = sets_of(model)
    run = EditedRun.of(
        nodes_of(frozen_run(model, ids), sets, EVERYTHING), [[Edit("m0.f1", "set", 4.0), Edit("m2.f3", "set", 2.0)]]
    )
    run.keep = frozenset([2])
    final = run.change()
    mid = run.run.layers[2].between + run.between[2][:, 0]
    mlp = model.parts.layers[2].mlp
    now = sets[2].encode(norm_of(mlp.norm, mid)[0])[:, 3]
    written = (2.0 - now)[:, None] * sets[2].W_dec[3]
    whole = run.run.final + final[:, 0]
    torch.testing.assert_close(whole, mid + mlp.module(norm_of(mlp.norm, mid)[0]) + written, **CLOSE)


# -------------------------------------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "gemma3", "llama-biases"])
def test_taking_a_neuron_away_frozen_is_its_edge(name: str) -> None:
    check_edges(tiny(name), "neurons")


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel", "gemma3", "twisted"])
@pytest.mark.parametrize("make", [sets_of, crossing])
def test_taking_a_feature_away_frozen_is_its_edge(name: str, make) -> None:
    check_edges(tiny(name), make(tiny(name)))


def test_frozen_changes_go_through_a_skip_connection() -> None:
    check_edges(tiny("gpt2"), sets_of(tiny("gpt2"), skip=True, exclude_special=True))


def check_edges(model: Model, nodes: Any) -> None:
    """To the root, and to an inner target: nodes and errors."""
    if nodes == "neurons" and model.parts.layers[0].mlp.down is None:
        return
    ids = prompt()
    graph = attribute(model, ids, nodes, target=3, config=EVERYTHING, options=QUIET)
    kinds = nodes_of(frozen_run(model, ids), nodes, EVERYTHING)
    inner = graph.nodes.is_kind("neuron", "feature") & (graph.nodes.layer == graph.n_layers - 1)
    target = int(inner.nonzero()[-1])
    layer, position, index = (int(column[target]) for column in graph.nodes[1:4])
    active = kinds.active[layer]
    place = ((active.index == index) & (active.position == position)).nonzero()[:, 0]
    covector = kinds.reading(layer, place).covector[0]
    sources = graph.nodes.is_kind("neuron", "feature", "error").nonzero()[:, 0]
    sources = sources[torch.randperm(len(sources))[:40]].tolist()
    run = EditedRun.of(kinds, [[Edit(graph.names[each])] for each in sources], "frozen")
    run.keep = frozenset([layer])
    before, after = run.logits()
    risen = (after - before[:, None])[-1]
    dense = torch.from_numpy(graph.matrix.toarray())
    root = int(graph.nodes.is_kind("root").nonzero()[0])
    torch.testing.assert_close(risen[:, 3] - risen.mean(1), -dense[root, sources], **CLOSE)
    torch.testing.assert_close(run.between[layer][position] @ covector, -dense[target, sources], **CLOSE)


def test_a_soft_capped_logit_counts_with_its_slope() -> None:
    model, ids = tiny("gemma2"), prompt()
    graph = attribute(model, ids, target=[3, 4], contrast=True, config=EVERYTHING, options=QUIET)
    assert graph.ledger.worst < 1e-12
    source = int(graph.nodes.is_kind("neuron").nonzero()[7])
    edge = float(graph.matrix[[graph.n_nodes - 1]].toarray()[0, source])
    found = intervene(model, ids, [Edit(graph.names[source])], propagation="frozen")
    assert found.change(3, 4) == pytest.approx(-edge, rel=1e-9)


# ------------------------------------------------------------------------------------------------------------- between


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel", "gemma3"])
def test_with_attention_frozen_the_mlps_are_computed_again(name: str) -> None:
    """Against the same, written out: all edits add to the first layer's output."""
    model, ids = tiny(name), prompt()
    parts, down = model.parts, model.parts.layers[0].mlp.down
    assert down is not None
    run = frozen_run(model, ids)
    found = intervene(model, ids, [Edit("m0.n1", "add", 2.0)], propagation="attention")
    x = run.final  # becomes the stream before each layer
    for number, (layer, ran) in enumerate(zip(parts.layers, run.layers, strict=True)):
        if number == 0:
            x = ran.before
        attention, mlp = layer.attention, layer.mlp
        y = norm_of(attention.norm, x, norm_of(attention.norm, ran.before)[1])[0]
        value = torch.einsum("sd,hdv->hsv", y, attention.value.weight)
        value = value if attention.value.bias is None else value + attention.value.bias[:, None]
        mixed = ran.pattern.first(len(ids)) @ value.repeat_interleave(ran.groups, 0)
        added = torch.einsum("hsv,hvd->sd", mixed, attention.output)
        added = added if ran.attention_scale is None else added * ran.attention_scale[:, None]
        added = added if attention.output_bias is None else added + attention.output_bias
        middle = x if parts.parallel else x + added
        raw = mlp.module(norm_of(mlp.norm, middle, norm_of(mlp.norm, ran.between)[1])[0])
        raw = raw + 2.0 * down[1] if number == 0 else raw
        if mlp.post_norm is not None:
            base = mlp.module(norm_of(mlp.norm, ran.between)[0])
            raw = norm_of(mlp.post_norm, raw, norm_of(mlp.post_norm, base)[1])[0]
        x = x + added + raw
    expected = parts.unembed(norm_of(parts.final_norm, x, norm_of(parts.final_norm, run.final)[1])[0])
    torch.testing.assert_close(found.after, expected, **CLOSE)


@pytest.mark.parametrize("propagation", ["attention", "open"])
def test_below_from_layer_all_is_frozen(propagation) -> None:
    model, ids, edits = tiny("llama-gqa"), prompt(), edits_of("n")
    kinds = nodes_of(frozen_run(model, ids), "neurons", EVERYTHING)
    ways: list[tuple[Any, int]] = [("frozen", 0), (propagation, 2), (propagation, 0)]
    frozen, mixed, free = (EditedRun.of(kinds, [edits], way, start) for way, start in ways)
    finals = []
    for run in (frozen, mixed, free):
        run.keep = frozenset([1])
        finals.append(run.change())
    torch.testing.assert_close(mixed.between[1], frozen.between[1])
    assert all(not torch.allclose(one, other, atol=1e-4) for one, other in combinations(finals, 2))
    late = [Edit("m2.n1", "set", 3.0)]
    same = intervene(model, ids, late, propagation=propagation, from_layer=2)
    torch.testing.assert_close(same.after, intervene(model, ids, late, propagation=propagation).after)
    whole = intervene(model, ids, edits, propagation="attention", from_layer=3)
    torch.testing.assert_close(whole.after, intervene(model, ids, edits, propagation="frozen").after, **CLOSE)


# -------------------------------------------------------------------------------------------------------- in the module


def hooks(model: Model) -> int:
    return sum(
        len(each._forward_hooks) + len(each._forward_pre_hooks) + ("forward" in each.__dict__)
        for each in model.module.modules()
    )


@pytest.mark.parametrize("name", ["llama-gqa", "gpt2", "gemma3", "neox-parallel"])
@pytest.mark.parametrize("make", [None, sets_of, crossing])
def test_generation_is_the_same_with_a_cache_and_without(name: str, make) -> None:
    """Prompts of two lengths, padded on the left, each with edits of its own."""
    model = tiny(name)
    nodes, letter = ("neurons", "n") if make is None else (make(model), "f")
    prompts = [prompt(5), prompt(3, seed=1)]
    edits = [edits_of(letter), [Edit(f"m0.{letter}2@1:", "set", 3.0), Edit(f"m1.{letter}7@4:", "scale", -2.0)]]
    ids = torch.stack([torch.nn.functional.pad(each, (5 - len(each), 0)) for each in prompts])
    mask = torch.stack([torch.arange(5) >= 5 - len(each) for each in prompts]).long()
    before, n_hooks = own(model, prompts[0]), hooks(model)
    choices: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    choices |= {"output_logits": True, "return_dict_in_generate": True}
    generate: Any = model.module.generate
    with editing(model, edits, nodes):
        cached, plain = (
            generate(input_ids=ids, attention_mask=mask, use_cache=use, **choices) for use in (True, False)
        )
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), rtol=1e-5, atol=1e-5)
    for row, length in enumerate(map(len, prompts)):
        whole = cached.sequences[row, 5 - length : -1]
        alone = intervene(model, whole, edits[row], nodes).after[length - 1 :]
        torch.testing.assert_close(torch.stack(cached.logits)[:, row].to(alone), alone, rtol=1e-5, atol=1e-5)
    assert hooks(model) == n_hooks
    assert torch.equal(own(model, prompts[0]), before)


def test_the_module_is_as_before_after_an_error() -> None:
    model = tiny("gpt2")
    n_hooks = hooks(model)
    with pytest.raises(InputError, match="edits of 2 prompts, and a batch of 3"), editing(model, [[], []]) as module:
        module(input_ids=prompt()[None].expand(3, -1))
    assert hooks(model) == n_hooks


def test_edits_of_a_batch_are_each_prompts_own() -> None:
    model, ids = tiny("llama-gqa"), prompt()
    edits = [[Edit("m0.n1@2", "set", 5.0)], [], [Edit("m1.n4", "add", 1.0)]]
    with editing(model, edits) as module, torch.no_grad():
        together = module(input_ids=ids.expand(3, -1)).logits
    for row, some in enumerate(edits):
        torch.testing.assert_close(together[row], intervene(model, ids, some).after, **CLOSE)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["m1"], "names no node"),
        (["m1.n2@x"], "'x' is no position"),
        (["m1.n2", "set"], "to set it takes an amount"),
        (["m1.n2", "ablate", 1.0], "to ablate it takes no amount"),
        (["m1.n2", "set", float("nan")], "give a finite amount"),
        (["m1.n2", "scale", float("inf")], "give a finite amount"),
        (["m1.n2", "double", 1.0], "there is no 'double'"),
        (["m1.n2@2", "set", 1.0, 3], "give them once"),
        (["m1.n2", "set", 1.0, -1], "position -1; they count from 0"),
        (["m1.n2", "set", 1.0, slice(0, 4, 2)], "in steps of 2"),
        (["m1.n2", "set", 1.0, []], "no positions"),
        (["m1.n2@5:2", "set", 1.0], "no positions"),
        (["m1.n2", "set", 1.0, slice(3, 3)], "no positions"),
        (["m1.error", "add", 1.0], "scale or ablate it"),
    ],
)
@pytest.mark.unchecked
def test_edits_that_say_nothing_sensible_are_refused(given, message) -> None:
    with pytest.raises(InputError, match=message):
        Edit(*given)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("m7.n1", "the model has 3 layers"),
        ("m1.n900", "layer 1 has 48 neurons, 0 to 47"),
        ("m1.f1", "names a feature, but the nodes given are neurons"),
        ("m1.n1@9", "position 9; the prompt has 6 tokens"),
        ("m1.n1@9:", "position 9; the prompt has 6 tokens"),
    ],
)
def test_edits_of_what_is_not_there_are_refused(node: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        intervene(tiny("llama-gqa"), prompt(), [Edit(node)])


@pytest.mark.unchecked
def test_other_wrong_wishes_are_refused() -> None:
    model = tiny("llama-gqa")
    with pytest.raises(InputError, match="choose frozen, attention or open"):
        intervene(model, prompt(), [], propagation="closed")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="from_layer 4: the model has 3 layers"):
        intervene(model, prompt(), [], from_layer=4)
    with pytest.raises(InputError, match="errors are of one prompt"), editing(model, [Edit("m1.error")]):
        pass
    with pytest.raises(InputError, match="layer 1 has no features here"):
        intervene(model, prompt(), [Edit("m1.f0")], [transcoder(model, 0)])
    found = intervene(model, prompt(), [])
    with pytest.raises(InputError, match="token 50: the model has tokens 0 to 49"):
        found.change(50)
    with pytest.raises(InputError, match="the model has no tokenizer"):
        found.change(" a")
