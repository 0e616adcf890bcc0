"""What features read and write, from weights alone, equals products of the modules' own matrices."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor

from edgewise import transcoders as tc
from edgewise.models import Model, PlainTransformer
from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec
from tests.tiny import VOCABULARY, refused, tiny
from tests.transcoders.reference import random_transcoder
from tests.transcoders.toys import text

MODELS = ("gpt2", "llama-gqa", "neox-parallel", "gemma2", "plain")
"""Layer norms; RMS norms, grouped queries; a parallel block; gains of `1 + w`, post-norms, a soft-cap; no norm."""
TOLERANCE: Any = {"rtol": 1e-9, "atol": 1e-9}


def made(model: Model, layer: int, last: int | None = None, read: str = "mlp_in", **changes: Any) -> Transcoder:
    """One with random weights."""
    width, seed = model.parts.d_model, layer
    writes = tuple(Site("mlp_out", each) for each in range(layer, (layer if last is None else last) + 1))
    site, n = Site(read, layer, changes.pop("centred", False)), changes.pop("n", 9)
    torch.manual_seed(seed)
    found = Transcoder(
        TranscoderSpec(width, width, n, Activation("relu"), site, writes, **changes), dtype=torch.float64
    )
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return found


class Matrices(NamedTuple):
    """A layer's, as the modules hold them; a head's map is `x @ value @ output`."""

    norms: tuple[Any, Any]
    """The attention's, and the MLP's."""
    value: Tensor
    output: Tensor


def matrices(model: Model, layer: int, head: int = 0) -> Matrices:
    module: Any = model.module
    if isinstance(module, PlainTransformer):
        block, rows = cast(Any, module.blocks[layer]), slice(head * 6, head * 6 + 6)  # its heads' width
        value, output = block.value.weight[rows].T, block.output.weight.T[rows]
        return Matrices((block.attention_norm, block.mlp_norm), value, output)
    if module.config.model_type == "gpt2":
        block, width = module.transformer.h[layer], module.config.n_embd // module.config.n_head
        rows = slice(head * width, (head + 1) * width)
        value = block.attn.c_attn.weight[:, 2 * module.config.n_embd :][:, rows]
        return Matrices((block.ln_1, block.ln_2), value, block.attn.c_proj.weight[rows])
    if module.config.model_type == "gpt_neox":
        block, heads = module.gpt_neox.layers[layer], module.config.num_attention_heads
        value = block.attention.query_key_value.weight.view(heads, 3, -1, module.config.hidden_size)[head, 2].T
        output = block.attention.dense.weight.T.view(heads, -1, module.config.hidden_size)[head]
        return Matrices((block.input_layernorm, block.post_attention_layernorm), value, output)
    block, config = module.model.layers[layer], module.config
    width, group = block.self_attn.head_dim, config.num_attention_heads // config.num_key_value_heads
    value = block.self_attn.v_proj.weight.view(-1, width, config.hidden_size)[head // group].T
    output = block.self_attn.o_proj.weight.T.view(-1, width, config.hidden_size)[head]
    if config.model_type == "llama":
        return Matrices((block.input_layernorm, block.post_attention_layernorm), value, output)
    output = output * (1 + block.post_attention_layernorm.weight)
    return Matrices((block.input_layernorm, block.pre_feedforward_layernorm), value, output)


def unscaled(norm: Any, x: Tensor) -> Tensor:
    """What a norm module makes of vectors, without its bias and its scale."""
    odd = (norm(x) - norm(-x)) / 2
    if isinstance(norm, torch.nn.Identity):
        return odd
    given = x - x.mean(-1, keepdim=True) if isinstance(norm, torch.nn.LayerNorm) else x
    eps = next(float(getattr(norm, name)) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    return odd * (given.square().mean(-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("name", MODELS)
def test_connections_are_products_of_the_modules_own_matrices(name: str) -> None:
    model = tiny(name)
    layer = len(model.parts.layers) - 1
    below, own, module = made(model, 0), made(model, layer), cast(Any, model.module)
    read = tc.reader(model, own)
    basis = torch.eye(model.parts.d_model, dtype=torch.float64)
    with torch.no_grad():
        norm = matrices(model, layer).norms[1]
        direct = unscaled(norm, below.W_dec) @ own.W_enc.T  # (features below, features)
        embed = module.tokens if name == "plain" else module.get_input_embeddings()
        tokens = unscaled(norm, embed(torch.arange(VOCABULARY))) @ own.W_enc.T
        through = {}
        for head in range(model.parts.n_heads):
            heads = matrices(model, 1, head)
            moved = unscaled(norm, unscaled(heads.norms[0], basis) @ heads.value @ heads.output)
            through[head] = moved @ own.W_enc.T  # (D, features)
    torch.testing.assert_close(tc.pullback(read, below), direct.T, **TOLERANCE)
    torch.testing.assert_close(tc.read_by(model, below, [4, 1], own), direct[[4, 1]], **TOLERANCE)
    torch.testing.assert_close(tc.de_embedding(model, read), tokens.T, **TOLERANCE)
    lengths = tc.head_norms(model, read)
    assert lengths.shape == (9, layer + (not model.parts.parallel), model.parts.n_heads)
    for head, moved in through.items():
        carried = tc.through_head(model, read, 1, head)
        torch.testing.assert_close(carried.covector, moved.T, **TOLERANCE)
        torch.testing.assert_close(lengths[:, 1, head], moved.norm(dim=0), **TOLERANCE)
        torch.testing.assert_close(tc.pullback(carried, below), (below.W_dec @ moved).T, **TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_unembedding_is_centred_and_through_the_final_norm(name: str) -> None:
    model = tiny(name)
    own, module = made(model, 1), cast(Any, model.module)
    base = module if name == "plain" else module.base_model
    names = ("ln_f", "final_layer_norm", "final_norm", "norm")
    final = next(getattr(base, each) for each in names if hasattr(base, each))
    unembed = module.unembed if name == "plain" else module.get_output_embeddings()
    with torch.no_grad():
        logits = unscaled(final, own.W_dec) @ unembed.weight.T
    expected = logits - logits.mean(1, keepdim=True)
    torch.testing.assert_close(tc.unembedding(model, own), expected, **TOLERANCE)
    torch.testing.assert_close(tc.unembedding(model, own, 3)[0], expected[3], **TOLERANCE)


@pytest.mark.parametrize("read", ["mlp_in", "mlp_normalized", "resid_mid"])
@pytest.mark.parametrize("centred", [False, True])
def test_a_reader_times_the_scale_is_the_pre_activation(read: str, centred: bool) -> None:
    model = tiny("gpt2")
    own = made(model, 1, read=read, centred=centred, input_bias=True)
    x = torch.randn(5, model.parts.d_model, dtype=torch.float64)
    norm = matrices(model, 1).norms[1]
    sites = {"mlp_in": norm, "mlp_normalized": lambda x: (norm(x) - norm.bias) / norm.weight, "resid_mid": lambda x: x}
    with torch.no_grad():
        up, down = (own.pre_activations(tc.centre(sites[read](sign * x), own.spec.reads)) for sign in (1, -1))
    moved = x - x.mean(-1, keepdim=True)
    scale = (moved.square().mean(-1, keepdim=True) + norm.eps).rsqrt() if read != "resid_mid" else 1.0
    torch.testing.assert_close(x @ tc.reader(model, own).covector.T * scale, (up - down) / 2, **TOLERANCE)
    torch.testing.assert_close(tc.reading_bias(model, own).expand(5, -1), (up + down) / 2, **TOLERANCE)


def test_positions_skips_and_cross_layer_features() -> None:
    model = tiny("gpt2")
    own, wide, skipping = made(model, 2), made(model, 0, last=2), made(model, 1, skip=True)
    read = tc.reader(model, own, [3])
    position: Any = model.module.transformer.wpe.weight  # pyright: ignore[reportAttributeAccessIssue]
    norm, skip_norm = matrices(model, 2).norms[1], matrices(model, 1).norms[1]
    skip = tc.through_skip(model, read, skipping)
    assert skip is not None and (skip.layer, skip.between) == (1, True) and skipping.W_skip is not None
    with torch.no_grad():
        expected = unscaled(norm, position.double()) @ own.W_enc[3]
        torch.testing.assert_close(tc.de_embedding(model, read, "positions")[0], expected, **TOLERANCE)
        added = wide.W_dec.view(9, 3, -1)[:, :2].sum(1)  # what it writes at layer 2 comes too late
        torch.testing.assert_close(tc.pullback(read, wide)[0], unscaled(norm, added) @ own.W_enc[3], **TOLERANCE)
        passed = unscaled(skip_norm, torch.eye(32, dtype=torch.float64)) @ skipping.W_skip.T
        torch.testing.assert_close(skip.covector[0], unscaled(norm, passed) @ own.W_enc[3], **TOLERANCE)


def test_what_is_not_there_is_refused() -> None:
    model = tiny("llama-gqa")
    low, high = made(model, 0), made(model, 1)
    read = tc.reader(model, low)
    assert "0 to 8" in refused(lambda: tc.reader(model, low, 9))
    assert "no layer below 0" in refused(lambda: tc.pullback(read, high))
    assert "one below 1" in refused(lambda: tc.through_heads(model, read, 1))
    assert "head 4" in refused(lambda: tc.through_head(model, read, 0, 4))
    assert "learns none" in refused(lambda: tc.de_embedding(model, read, "positions"))
    assert "after what is read" in refused(lambda: tc.through_skip(model, read, high))
    assert tc.de_embedding(model, read).shape[1] == VOCABULARY


def test_a_description_lists_the_strongest_connections() -> None:
    model = tiny("gpt2")
    sets = [made(model, layer) for layer in (2, 0, 1)]
    found = tc.describe(model, sets, 1, 5, most=4, n_heads=2)
    own, low, high = sets[2], sets[1], sets[0]
    read = tc.reader(model, own, 5)
    weights = tc.pullback(read, low)[0]
    assert [each.weight for each in found.features] == pytest.approx(weights[weights.abs().topk(4).indices].tolist())
    assert found.features[0].name == f"m0.f{int(weights.abs().argmax())}"
    embedding, logits = tc.de_embedding(model, read)[0], tc.unembedding(model, own, 5)[0]
    assert (found.raising[0].name, found.lowering[0].name) == (
        str(int(embedding.argmax())),
        str(int(embedding.argmin())),
    )
    assert (found.promoted[0].weight, found.suppressed[0].weight) == pytest.approx(
        (logits.max().item(), logits.min().item())
    )
    later = tc.read_by(model, own, 5, high)[0]
    assert found.readers[0] == (f"m2.f{int(later.abs().argmax())}", pytest.approx(float(later[later.abs().argmax()])))
    lengths = tc.head_norms(model, read)[0]
    layer, head = divmod(int(lengths.argmax()), lengths.shape[1])
    assert found.heads[0].name == f"a{layer}.h{head}" and found.n_heads == 8 and len(found.heads) == 2
    assert found.heads[0].length == pytest.approx(lengths.max().item())
    assert found.bias == pytest.approx(float(tc.reading_bias(model, own, 5)))
    lowest = tc.describe(model, sets, 0, 5)
    assert not lowest.features and all(not each.features for each in lowest.heads) and lowest.n_heads == 4
    assert "are of 0, 1, 2" in refused(lambda: tc.describe(model, sets, 7, 1))
    assert "two read layer 2" in refused(lambda: tc.describe(model, [*sets, sets[0]], 1, 1))
    encoder, ids = random_transcoder("relu", d_in=32, autoencoder=True, n_features=9), text(4)
    for run in (lambda: tc.describe(model, [encoder, own], 1, 5), lambda: tc.on_text(model, [encoder, own], 1, 5, ids)):
        assert "autoencoder of layer 0 mlp_out: its features do not stand for an MLP" in refused(run)
    assert list(tc.on_prompt(model, [encoder, own], ids.ids[0])) == [0, 1]


def test_a_description_names_tokens_that_are_parts_of_characters() -> None:
    class Parts:
        def decode(self, ids: list[int]) -> str:
            return "\ufffd"

        def convert_ids_to_tokens(self, token: int) -> str:
            return "âĢ"

    model = tiny("gpt2")
    found = tc.describe(replace(model, tokenizer=Parts()), [made(model, 1)], 1, 5, most=2)
    assert [each.name for each in found.raising] == [r"\xe2\x80"] * 2


def test_features_on_a_text_and_their_virtual_weights(tmp_path: Path) -> None:
    """Beside plain loops over what hooks on the model's own modules see."""
    model, rows = tiny("gpt2"), text(300, context=6)
    sets = [made(model, 1), made(model, 0), made(model, 2)]
    found = tc.on_text(model, sets, 1, [4, 7], rows, most=(5, 3))
    seen: list[Tensor] = []
    module: Any = model.module
    hooks = [
        module.transformer.h[layer].mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for layer in (0, 1)
    ]
    with torch.no_grad():
        module(input_ids=rows.ids)
        low, own = (
            each.pre_activations(x[:, 1:]).relu().flatten(0, 1)
            for each, x in zip((sets[1], sets[0]), seen, strict=True)
        )
    for hook in hooks:
        hook.remove()
    keep = ~torch.isin(rows.ids[:, 1:].flatten(), torch.tensor(_special(model)))
    low, own = low[keep], own[keep][:, [4, 7]]
    assert found.n_tokens == len(own) > 1000
    torch.testing.assert_close(found.frequency, (own > 0).double().mean(0), **TOLERANCE)
    torch.testing.assert_close(found.mean, own.mean(0), **TOLERANCE)
    for j in (0, 1):
        weight = tc.pullback(tc.reader(model, sets[0], [4, 7]), sets[1])[j]
        era = ((own[:, j] > 0)[:, None] * low).mean(0) * weight
        twera = (own[:, j, None] * low).mean(0) / own[:, j].mean() * weight
        best = twera.abs().topk(5).indices
        assert found.virtual.feature[j].tolist() == best.tolist() and found.virtual.layer.eq(0).all()
        for column, expected in zip(found.virtual[2:], (weight, era, twera), strict=True):
            torch.testing.assert_close(column[j], expected[best], **TOLERANCE)
        largest = own[:, j].topk(3).values
        torch.testing.assert_close(found.examples.value[j], largest, **TOLERANCE)
        x = seen[1][found.examples.row[j], found.examples.position[j]]
        torch.testing.assert_close(sets[0].pre_activations(x)[:, (4, 7)[j]].detach(), largest, **TOLERANCE)
    found.save(tmp_path / "features.safetensors")
    again = tc.FeaturesOnText.load(tmp_path / "features.safetensors")
    assert [each["reads"]["layer"] for each in found.conditions["transcoders"]] == [0, 1]
    assert again.conditions == found.conditions and again.virtual.twera.equal(found.virtual.twera)
    assert again.examples.row.equal(found.examples.row) and again.n_tokens == found.n_tokens
    assert tc.on_text(model, sets, 0, 3, rows).virtual.twera.shape == (1, 0)
    assert "no transcoder of it" in refused(lambda: tc.on_text(model, sets[:2], 2, 0, rows))


def test_features_on_a_prompt() -> None:
    """Beside what a hook on the model's own module sees; nothing is on at a token that does not count."""
    model, ids = tiny("gpt2"), text(1, context=12).ids[0]
    own = made(model, 1)
    seen: list[Tensor] = []
    module: Any = model.module
    hook = module.transformer.h[1].mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    with torch.no_grad():
        module(input_ids=ids[None])
    hook.remove()
    expected = own.pre_activations(seen[0]).relu().detach()
    every = tc.on_prompt(model, [own, made(model, 0)], ids, exclude_special=False)
    assert list(every) == [0, 1]
    torch.testing.assert_close(every[1], expected, **TOLERANCE)
    counts = ~torch.isin(ids, torch.tensor(_special(model)))
    counts[0] = False
    torch.testing.assert_close(tc.on_prompt(model, [own], ids)[1], expected * counts[:, None], **TOLERANCE)
    assert "two read layer 1" in refused(lambda: tc.on_prompt(model, [own, own], ids))
    assert "there are none" in refused(lambda: tc.on_prompt(model, [], ids))
    assert "none of its tokens counts" in refused(lambda: tc.on_prompt(model, [own], ids[:1]))


def _special(model: Model) -> list[int]:
    return sorted(getattr(model.tokenizer, "all_special_ids", None) or [])
