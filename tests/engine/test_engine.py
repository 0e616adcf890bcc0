"""The engine leaves the user's module alone, refuses what it cannot run, and packs batches as it says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.engine import Ablation, Engine, Stream, Writes, constant_writes
from edgewise.engine._packing import pack
from edgewise.engine._writes import base_sums
from edgewise.graph import Graph
from edgewise.models import Tokens
from tests.engines import ABLATIONS, assert_close, engine, random_constants, random_masks
from tests.tiny import ONE_OF_EACH, VOCABULARY, Batch, collate, draw_prompts, random_model, tiny

PROMPTS = draw_prompts((6, 3, 5))
BATCH = collate(PROMPTS)


# ---------------------------------------------------------------------------------------------- the module is untouched

_HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


def _state(module: nn.Module) -> dict[str, object]:
    """All that a run could change: weights and buffers to the bit, flags, gradients, hooks, modules, attributes."""
    state: dict[str, object] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        state[name] = (
            tensor.data_ptr(),
            tensor.dtype,
            tensor.detach().numpy().tobytes(),
            tensor.requires_grad,
            tensor._version,
        )
        state[f"{name}.grad"] = tensor.grad
    for name, inner in module.named_modules():
        hooks = {kind: len(getattr(inner, kind)) for kind in _HOOKS}
        state[f"{name}:"] = (id(inner), inner.training, hooks, sorted(vars(inner)))
    return state


@pytest.mark.parametrize("path", ["fast", "reference"])
@pytest.mark.parametrize("name", [*ONE_OF_EACH, "qwen3", "plain-norm"])
def test_the_module_is_untouched(name: str, path):
    model = random_model(name)
    next(iter(model.module.parameters())).requires_grad_(False)  # flags are the user's
    before = _state(model.module)
    for ablation in ("interchange", "learned"):
        run = engine(model, None, ablation, path=path)
        for mask in random_masks(model.graph()).values():
            run.run(BATCH, mask.clone().requires_grad_()).sum().backward()
        run.full(BATCH)
    assert _state(model.module) == before


def test_gradients_keep_nothing_of_the_module():
    """Where the mask needs no gradient, the logits need none either, though the module's weights do."""
    model = tiny("gpt2")
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    logits = engine(model).run(BATCH, torch.ones(model.graph().n_edges))
    assert not logits.requires_grad
    assert not engine(model).full(BATCH).requires_grad


# ------------------------------------------------------------------------------------------------------ what is refused


def _with(batch: Batch, **changes) -> Batch:
    return replace(batch, **changes)


def _tokens(mask: Tensor) -> Tokens:
    return Tokens(torch.zeros(mask.shape, dtype=torch.long), mask)


def _hollow() -> Tensor:
    mask = BATCH.clean.mask.clone()
    mask[2, 1] = False
    return mask


E = tiny("gpt2").graph().n_edges
ONES = torch.ones(E)
GROUPS = torch.ones(1, 2, E)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("batch", "mask", "complaint"),
    [
        (BATCH, ONES[1:], rf"mask: shape \({E - 1},\); expected .* E = {E}$"),
        (BATCH, ONES[None], rf"mask: shape \(1, {E}\); expected"),
        (BATCH, GROUPS[..., 1:], rf"mask: shape \(1, 2, {E - 1}\); expected"),
        (BATCH, torch.tensor(1.0), r"mask: shape \(\); expected"),
        (_with(BATCH, span_id=None), GROUPS, "mask: it has 2 position groups, and the batch has no span_id"),
        (_with(BATCH, span_id=torch.full((3, 6), 2)), GROUPS, "span_id: groups must lie in 0 to 1, .* got 2 to 2$"),
        (_with(BATCH, span_id=torch.full((3, 6), -1)), GROUPS, "span_id: groups must lie in 0 to 1, .* got -1 to -1$"),
        (
            _with(BATCH, corrupted=collate(draw_prompts((6, 4, 5))).clean),
            ONES,
            "batch: example 1 .* different token length",
        ),
        (_with(BATCH, corrupted=collate(PROMPTS[:2]).clean), ONES, "batch: example 2 .* different token length"),
        (_with(BATCH, clean=_tokens(_hollow())), ONES, "batch: example 2 is empty or has padding in its middle"),
        (_with(BATCH, corrupted=_tokens(_hollow())), ONES, "batch: example 2 "),
        (_with(BATCH, clean=_tokens(torch.zeros(3, 6).bool())), ONES, "batch: example 0 is empty"),
        (_with(BATCH, position=torch.tensor([5, 3, 2, 4, 5])), ONES, "example 2"),  # padding
        (_with(BATCH, position=torch.tensor([5, 3, 2, 4, 6])), ONES, "example 2"),  # outside
    ],
)
def test_a_bad_batch_or_mask_is_told_in_one_line(batch: Batch, mask: Tensor, complaint: str):
    for path in ("fast", "reference"):
        with pytest.raises(InputError, match=complaint) as caught:
            engine(tiny("gpt2"), path=path).run(batch, mask)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [4, 6])
def test_the_full_model_refuses_a_target_outside_its_prompt(position: int):
    targets = BATCH.position.clone()
    targets[2] = position  # the second prompt has three tokens, the batch six columns
    with pytest.raises(InputError, match="example 1"):
        engine(tiny("gpt2")).full(_with(BATCH, position=targets))


@pytest.mark.unchecked
def test_a_misspelt_choice_is_refused():
    own = engine(tiny("gpt2"))
    with pytest.raises(InputError, match="which='corrupt': choose 'clean' or 'corrupted'"):
        own.full(BATCH, "corrupt")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="gradients='every': choose 'fractional' or 'all'"):
        own.run(BATCH, ONES, gradients="every")  # pyright: ignore[reportArgumentType]


def test_a_stream_refuses_groups_that_its_graph_has_not():
    model = tiny("gpt2")
    own = Engine(model, model.graph(spans=("only",)))  # the batch has groups 0 and 1
    with pytest.raises(InputError, match="span_id: groups must lie in 0 to 0, .*; got 0 to 1"):
        Stream(own, BATCH, groups=True)


@pytest.mark.parametrize("kind", ["mean", "learned"])
def test_constants_by_position_are_refused_where_they_are_not_taken_so(kind: str):
    model = tiny("gpt2")
    means = random_constants(model, model.graph(), "mean-positional")
    with pytest.raises(InputError, match=f"ablation '{kind}': its constants are of 9 positions; give one for all"):
        Engine(model, ablation=ABLATIONS[kind], constants=means)


def test_one_mean_is_none_for_every_position():
    model = tiny("gpt2")
    one = random_constants(model, model.graph(), "mean")
    own = Engine(model, ablation=ABLATIONS["mean-positional"], constants=one)
    with pytest.raises(InputError, match="6 tokens and there are means for 1;"):
        own.run(BATCH, ONES)


def test_fixed_constants_are_summed_once_and_again_where_they_changed(monkeypatch: pytest.MonkeyPatch):
    calls, model, mask = [], tiny("gpt2"), random_masks(tiny("gpt2").graph())["mixed"]
    monkeypatch.setattr("edgewise.engine._constants.base_sums", lambda *given: calls.append(given) or base_sums(*given))
    own, learned = engine(model, None, "mean"), engine(model, None, "learned")
    before = [own.run(BATCH, mask) for _ in range(2)]
    assert len(calls) == 1 and torch.equal(*before)
    for change in ("in place", "replaced"):
        assert own.constants is not None
        if change == "in place":
            own.constants.mlps[0].mul_(2)
        else:
            own.constants = Writes.from_tensors((2 * x for x in own.constants.tensors()), own.graph)
        found = own.run(BATCH, mask)
        assert_close(found, Engine(model, None, own.ablation, constants=own.constants).run(BATCH, mask))
        assert (found - before[0]).abs().max() > 0.01
    calls.clear()
    for _ in range(2):
        learned.run(BATCH, mask)
    assert len(calls) == 2


def test_a_prompt_longer_than_the_positional_means_is_refused():
    model = tiny("gpt2")
    with pytest.raises(InputError, match="10 tokens .*for 9;"):
        engine(model, None, "mean-positional").run(collate(draw_prompts((10,))), ONES)


@pytest.mark.parametrize("kind", ["mean", "mean-positional", "learned"])
def test_ablations_that_need_constants(kind):
    with pytest.raises(InputError, match=f"ablation '{kind}': pass its constants"):
        Engine(tiny("gpt2"), ablation=Ablation(kind))


@pytest.mark.parametrize("kind", ["interchange", "zero"])
def test_ablations_that_take_none(kind):
    model = tiny("gpt2")
    with pytest.raises(InputError, match=f"ablation '{kind}': takes no constants"):
        Engine(model, ablation=Ablation(kind), constants=constant_writes(model.parts, model.graph()))


def test_unknown_ablations():
    with pytest.raises(InputError, match="ablation: 'resample' is not one of interchange, zero"):
        Ablation("resample")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="bias='head' is neither 'layer' nor 'shared'"):
        Ablation(bias="head")  # pyright: ignore[reportArgumentType]


def test_what_an_ablation_says_of_itself():
    assert {kind: a.splits_bias for kind, a in ABLATIONS.items() if a.splits_bias} == {
        "zero-shared": True,
        "learned-shared": True,
    }
    assert not Ablation("interchange", bias="shared").splits_bias
    assert not Ablation("mean", bias="shared").splits_bias
    assert Ablation(**ABLATIONS["mean"].to_dict()) == ABLATIONS["mean"]


# --------------------------------------------------------------------------------------------------------- the defaults


def test_defaults():
    model = tiny("llama-gqa")
    default = Engine(model)
    assert default.graph == model.graph() and default.ablation == Ablation("interchange")
    mask = random_masks(model.graph())["mixed"]
    logits = default.run(BATCH, mask)
    assert logits.shape == (len(BATCH.row), VOCABULARY)
    assert default.run(BATCH, mask[None, None]).shape == (1, len(BATCH.row), VOCABULARY)
    assert_close(default.run(BATCH, mask[None, None])[0], logits)


def test_an_engine_of_an_engine_is_itself_or_refused():
    model = tiny("llama-gqa")
    made = Engine.of(model, model.graph("off"), Ablation("zero"))
    assert made.graph == model.graph("off") and made.ablation == Ablation("zero")
    assert Engine.of(made) is made
    assert Engine.of(made, model.graph("off"), Ablation("zero")) is made
    with pytest.raises(InputError, match=r"another than the one to run \(embeddings off, not joint\)"):
        Engine.of(made, model.graph())
    with pytest.raises(InputError, match="engine: its ablation is .*; expected "):
        Engine.of(made, ablation=Ablation())


def test_a_graph_of_another_model_is_refused():
    model = tiny("gpt2")
    for other in ("gpt2-untied", "llama-gqa", "neox-parallel"):
        with pytest.raises(InputError, match="graph"):
            Engine(model, tiny(other).graph())


def test_shared_biases_matter_only_where_heads_are_taken_away_with_them():
    model = tiny("gpt2")
    graph, mask = model.graph(), random_masks(model.graph())["mixed"]
    plain, shared = (Engine(model, graph, Ablation("interchange", bias=bias)) for bias in ("layer", "shared"))
    assert_close(shared.run(BATCH, mask), plain.run(BATCH, mask))
    zero, zero_shared = engine(model, graph, "zero"), engine(model, graph, "zero-shared")
    assert (zero.run(BATCH, mask) - zero_shared.run(BATCH, mask)).abs().max() > 0.01


def test_the_order_of_writers_and_readers_is_the_graphs():
    """The edges of a circuit that a name picks are the ones that matter: m0 -> logits alone carries what m0 wrote."""
    model = tiny("plain")
    graph = model.graph()
    parts = model.parts
    for name in ("embed", "a1.h0", "m0"):
        mask = torch.ones(graph.n_edges, dtype=torch.float64)
        mask[graph.edge_id(f"{name} -> logits")] = 0
        change = engine(model).run(BATCH, mask) - engine(model).full(BATCH)
        packing, other = pack(BATCH.clean), pack(BATCH.corrupted)
        targets = packing.where(BATCH.row, BATCH.position)
        difference = _written(model, graph, other)[name] - _written(model, graph, packing)[name]
        unembed = parts.unembed(difference[targets]) - parts.unembed(torch.zeros_like(difference[targets]))
        assert_close(change, unembed)


def _written(model, graph: Graph, packing) -> dict[str, Tensor]:
    from edgewise.engine._writes import trace

    found = trace(model.parts, graph, packing)
    written = {"embed": found.embeds[0]}
    for index, layer in enumerate(model.parts.layers):
        written[f"m{index}"] = found.mlps[index]
        for head in range(model.parts.n_heads):
            written[f"a{index}.h{head}"] = found.heads[index][:, head] @ layer.attention.output[head]
    return written


# -------------------------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("n_copies", [1, 3])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_packing(side, n_copies: int, n_groups: int):
    prompts = draw_prompts((6, 1, 4, 6), n_groups=3)
    batch = collate(prompts, side, extra=2)
    packing = pack(batch.clean, n_copies, batch.span_id, n_groups)
    n = sum(len(p.clean) for p in prompts)
    assert packing.n_tokens == n * n_copies
    assert packing.grid == (4 * n_copies, 6) and not packing.full
    assert packing.is_plain == (n_copies == n_groups == 1)
    plain = torch.cat([p.clean for p in prompts])
    assert torch.equal(packing.ids.repeat(n_copies, 1).flatten()[packing.cell], plain[packing.example_token])
    positions = torch.cat([torch.arange(len(p.clean)) for p in prompts])
    assert torch.equal(packing.token_positions(), positions[packing.example_token])
    # Each row of masks has one run of tokens, and they are the group's.
    groups = torch.cat([p.groups for p in prompts]) if n_groups > 1 else torch.zeros(n, dtype=torch.long)
    assert [s.row for s in packing.segments] == list(range(n_copies * n_groups))
    assert [s.start for s in packing.segments[1:]] == [s.stop for s in packing.segments[:-1]]
    assert torch.equal(packing.rows() % n_groups, groups[packing.example_token])
    assert torch.equal(packing.rows() // n_groups, torch.arange(n_copies).repeat_interleave(n))
    # To the padded grid and back.
    x = torch.randn(packing.n_tokens, 2, 5)
    grid = packing.unpack(x)
    assert grid.shape == (4 * n_copies, 2, 6, 5)
    assert torch.equal(packing.pack(grid), x)
    assert int((grid != 0).any(-1).any(1).sum()) == packing.n_tokens  # padding is zero
    # Targets, circuit by circuit.
    found = packing.where(batch.row, batch.position)
    expected = torch.cat([p.clean[list(p.targets)] for p in prompts]).repeat(n_copies)
    assert torch.equal(plain[packing.example_token[found]], expected)
    copies = torch.arange(n_copies).repeat_interleave(len(batch.row))
    assert torch.equal(packing.rows()[found] // n_groups, copies)


def test_a_batch_without_padding_is_full():
    batch = collate(draw_prompts((4, 4)))
    assert pack(batch.clean).full and pack(batch.clean, 3).full
    assert torch.equal(pack(batch.clean).ids, batch.clean.ids)


def test_tokens_move_together():
    tokens = BATCH.clean.to("meta")
    assert tokens.ids.device == tokens.mask.device == torch.device("meta")


def test_a_prompt_longer_than_the_learned_positions_is_refused():
    model = tiny("gpt2")
    n_positions = model.parts.n_positions
    assert n_positions is not None and tiny("llama-gqa").parts.n_positions is None
    (prompt,) = draw_prompts((n_positions + 1,))
    batch, mask = collate([prompt]), torch.ones(model.graph().n_edges, dtype=torch.float64)
    for use in (lambda: engine(model).run(batch, mask), lambda: engine(model).full(batch)):
        with pytest.raises(
            InputError, match=rf"has {n_positions + 1} tokens, and the model has {n_positions} positions"
        ):
            use()
