"""The reference: a masked run that is obviously right, in plain PyTorch with autograd and no tricks.

Every reader gets its own residual stream, the sum over all of its edges; every gradient is autograd's. It is slow and
keeps everything; the fast executor is held equal to it by the tests. So that they are two opinions, what a layer
computes is spelled out here once more, and nothing of `edgewise.models.block` is used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from edgewise.engine._ablation import Ablation
from edgewise.engine._packing import Packing
from edgewise.engine._writes import Writes, embeddings
from edgewise.engine.features import FeatureLayer, FeatureRun, NeuronRun
from edgewise.graph import Graph
from edgewise.models import Attention, Heads, Layer, Mlp, Norm, Parts
from edgewise.transcoders import input_at


def reference_logits(
    parts: Parts,
    graph: Graph,
    ablation: Ablation,
    packing: Packing,
    masks: Float[Tensor, "CP E"],
    ablated: Writes,
    targets: Int[Tensor, " A"],
    apart: "TakenApart",
) -> Float[Tensor, "A V"]:
    """Logits of the circuits' runs at some packed tokens; differentiable in `masks` and `ablated`.

    What removed edges carry is in `ablated`, per packed token or the same for all; `ablation` only says who owns b_O.
    """
    clean = tuple(term[packing.example_token].detach() for term in embeddings(parts, graph, packing))
    nothing = clean[0].new_zeros(0, *clean[0].shape)
    residual = _Residual(nothing, nothing, clean[0])
    if graph.n_embeddings:
        residual = residual._replace(always=torch.zeros_like(clean[0])).plus(clean, ablated.embeds)
    run = _ReferenceRun(parts, graph, packing, masks)
    for index, layer in enumerate(parts.layers):
        before, first = residual, graph.attention(index).reader
        mixed = run.attend(residual, layer.attention, first)  # (N, H, v)
        residual = _add_heads(residual, layer.attention, mixed, ablated.heads[index], ablation.splits_bias)
        before = before if parts.parallel else residual
        fixed = apart.runs.get(index)
        if isinstance(fixed, FeatureRun):
            residual = run.add_features(residual, before, layer, index, apart.features, fixed)
            continue
        if isinstance(fixed, NeuronRun):
            residual = run.add_neurons(residual, before, layer.mlp, index, fixed)
            continue
        y = _frozen(layer.mlp.norm.module)(run.stream(before, graph.mlp(index).reader))
        mlp_written = _frozen(layer.mlp.module)(y) if layer.mlp.routing is None else layer.mlp.run_module(y)
        if layer.mlp.post_norm is not None:
            mlp_written = _frozen(layer.mlp.post_norm.module)(mlp_written)
        residual = residual.plus([mlp_written], [ablated.mlps[index]])
    return parts.unembed(_frozen(parts.final_norm.module)(run.stream(residual, graph.n_readers - 1)[targets]))


class TakenApart(NamedTuple):
    """Of layers with features or neurons in their MLPs' places, these, and what is fixed of them in the run."""

    features: Mapping[int, FeatureLayer]
    runs: Mapping[int, FeatureRun | NeuronRun]


class _Residual(NamedTuple):
    """What has been written so far, each writer's part on its own."""

    written: Float[Tensor, "W N D"]
    """z_w: what each writer writes in the circuit's run."""
    replaced: Float[Tensor, "W N D"]
    """z̃_w: what its removed edges carry."""
    always: Float[Tensor, "N D"]
    """c: what is never masked."""

    def plus(self, written: Sequence[Tensor], replaced: Sequence[Tensor]) -> "_Residual":
        """With further writers."""
        more = torch.stack([*written]), torch.stack([term.expand_as(self.always) for term in replaced])
        return _Residual(torch.cat([self.written, more[0]]), torch.cat([self.replaced, more[1]]), self.always)


class _ReferenceRun:
    """A batch under masks."""

    def __init__(self, parts: Parts, graph: Graph, packing: Packing, masks: Float[Tensor, "CP E"]) -> None:
        self.parts, self.graph, self.packing, self.masks = parts, graph, packing, masks
        self.active: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        """By layer and number, a feature's activations, [N, 1], and those that removed edges carry, [M, 1]."""
        self.row = torch.empty(packing.n_tokens, dtype=torch.long, device=masks.device)  # of the masks, for each token
        for segment in packing.segments:
            self.row[segment.start : segment.stop] = segment.row

    def stream(self, residual: _Residual, reader: int) -> Float[Tensor, "N D"]:
        """A reader's input."""
        return self.streams(residual, reader, 1)[0]

    def streams(self, residual: _Residual, first: int, n: int) -> Float[Tensor, "n N D"]:
        """The inputs of `n` readers of one block, each its own `c + Σ_w [m_rw z_w + (1 − m_rw) z̃_w]`."""
        n_writers, start = int(self.graph.visible[first]), int(self.graph.offset[first])
        edges = self.masks[:, start : start + n * n_writers]  # a block's edges, reader by reader
        masks = edges.view(len(edges), n, n_writers)[self.row]  # (N, n, w)
        kept = torch.einsum("nrw,wnd->rnd", masks, residual.written[:n_writers])
        return residual.always + kept + torch.einsum("nrw,wnd->rnd", 1 - masks, residual.replaced[:n_writers])

    def attend(self, residual: _Residual, own: Attention, first: int) -> Float[Tensor, "N H v"]:
        """Each head's mixed values before W_O, of a layer whose readers start at `first`."""
        query, key, value = (
            self.project(residual, heads, own.norm, first + places.start, len(places))
            for heads, places in zip((own.query, own.key, own.value), self.graph.roles, strict=True)
        )
        query, key = _head_normed(own.query_norm, query), _head_normed(own.key_norm, key)
        copies = self.packing.n_copies
        if own.rotate is not None and own.rotary is not None:
            positions = self.packing.positions.repeat(copies, 1)
            query, key = own.rotate(query, key, *own.rotary(own.output_weight, positions))
        key, value = (x.repeat_interleave(self.graph.heads_per_key, 1) for x in (key, value))
        return self.packing.pack(_pattern(own, query, key, self.packing.real.repeat(copies, 1)) @ value)

    def project(self, residual: _Residual, heads: Heads, norm: Norm, first: int, n: int) -> Float[Tensor, "CB n S k"]:
        """The projections of `n` readers, each of its own input; fewer heads are repeated."""
        repeats = n // len(heads.weight)
        y = _frozen(norm.module)(self.streams(residual, first, n))
        outputs = torch.einsum("rnd,rdk->nrk", y, heads.weight.repeat_interleave(repeats, 0))
        bias = torch.zeros_like(heads.weight[:, 0]) if heads.bias is None else heads.bias
        return self.packing.unpack(outputs + bias.repeat_interleave(repeats, 0))

    def add_features(
        self,
        residual: _Residual,
        before: _Residual,
        layer: Layer,
        index: int,
        layers: Mapping[int, FeatureLayer],
        fixed: FeatureRun,
    ) -> _Residual:
        """A layer's features, whose readers see `before`, places of earlier layers' features, and the error term."""
        spec = self.graph.spec
        features = spec.features_of(index) or ()
        streams = self.streams(before, self.graph.mlp(index).reader, len(features)) if features else ()
        for i, (feature, x) in enumerate(zip(features, streams, strict=True)):
            transcoder = layers[index].transcoder
            site = transcoder.spec.reads
            x = input_at(layer, site.kind, x, _frozen(layer.mlp.norm.module)(x))
            x = x - x.mean(1, keepdim=True) if site.centred else x
            x = x if transcoder.b_in is None else x - transcoder.b_in.detach().to(x)
            pre = x @ transcoder.W_enc[feature].detach().to(x) + transcoder.b_enc[feature].detach().to(x)
            on = (pre > fixed.bound.expand(-1, len(features))[:, i]).to(x)
            self.active[index, feature] = (on * pre)[:, None], fixed.ablated[:, i]
        written, replaced = [], []
        for source, feature in [*((index, feature) for feature in features), *spec.places_at(index)]:
            transcoder, (active, ablated) = layers[source].transcoder, self.active[source, feature]
            site = [site.layer for site in transcoder.spec.writes].index(index)
            decoder = transcoder.W_dec[feature].detach().view(len(transcoder.spec.writes), -1)[site].to(active)
            written.append(active * decoder)
            replaced.append(ablated * decoder)
        residual = residual.plus(written, replaced) if written else residual
        if spec.error == "scored":
            return residual.plus([fixed.error], [fixed.ablated_error])
        always = fixed.error if spec.error == "kept" else fixed.ablated_error
        return residual._replace(always=residual.always + always)

    def add_neurons(self, residual: _Residual, before: _Residual, mlp: Mlp, index: int, fixed: NeuronRun) -> _Residual:
        """A layer's groups of neurons, whose readers see `before`, and the rest of the MLP."""
        groups = self.graph.spec.neurons_of(index) or ()
        assert mlp.down is not None
        *streams, rest = self.streams(before, self.graph.mlp(index).reader, len(groups) + 1)
        written = [_neurons_written(mlp, x, group) for x, group in zip(streams, groups, strict=True)]
        rows = [mlp.down[list(group)] for group in groups]
        replaced = [fixed.ablated[:, i, : len(row)] @ row for i, row in enumerate(rows)]
        everyone = _frozen(mlp.module)(_frozen(mlp.norm.module)(rest))
        left = everyone - sum((_neurons_written(mlp, rest, group) for group in groups), start=0.0)
        return residual.plus([*written, left], [*replaced, fixed.rest])


def _neurons_written(mlp: Mlp, x: Float[Tensor, "N D"], neurons: Sequence[int]) -> Float[Tensor, "N D"]:
    """What some neurons of an MLP write of a stream, one after the other."""
    y, total = _frozen(mlp.norm.module)(x), torch.zeros_like(x)
    assert mlp.up is not None and mlp.down is not None and mlp.activation is not None
    for neuron in neurons:
        up = y @ mlp.up[:, neuron] + (0.0 if mlp.up_bias is None else mlp.up_bias[neuron])
        active = mlp.activation(up)
        if mlp.gate is not None:
            gate = y @ mlp.gate[:, neuron] + (0.0 if mlp.gate_bias is None else mlp.gate_bias[neuron])
            active = mlp.activation(gate) * up
        total = total + active[:, None] * mlp.down[neuron]
    return total


def _pattern(
    own: Attention, query: Float[Tensor, "CB H S k"], key: Float[Tensor, "CB H S k"], real: Bool[Tensor, "CB S"]
) -> Float[Tensor, "CB H S S"]:
    """How much each query takes of each value."""
    logits = torch.einsum("bhik,bhjk->bhij", query, key) * own.scale
    if own.softcap is not None:
        logits = own.softcap * torch.tanh(logits / own.softcap)
    asking = torch.arange(query.shape[2], device=query.device)[:, None]
    asked = asking.T
    seen = real[:, None, None, :] | (asked == asking)  # padding sees itself at least, or its softmax has no terms
    if own.causal:
        seen = seen & (asked <= asking)
    if own.window is not None:
        seen = seen & (asking - asked < own.window)
    logits = torch.where(seen, logits, -torch.inf)
    if own.sinks is None:
        return logits.softmax(-1)
    sinks = own.sinks.to(logits)[:, None, None].expand(*logits.shape[:3], 1)
    return torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]


def _add_heads(
    residual: _Residual,
    attention: Attention,
    mixed: Float[Tensor, "N H v"],
    ablated: Float[Tensor, "M H v"],
    splits_bias: bool,
) -> _Residual:
    """The heads' writes through W_O; b_O is shared among them, or always on. With a post-norm, each head's write is its
    share of the normed sum of them all.
    """
    always, bias, n_heads = residual.always, attention.output_bias, mixed.shape[1]
    share = torch.zeros_like(always[0])
    if bias is not None and splits_bias:
        share = bias / n_heads
    elif bias is not None:
        always = always + bias
    written = [mixed[:, head] @ attention.output_weight[head] + share for head in range(n_heads)]
    replaced = [ablated[:, head] @ attention.output_weight[head] for head in range(n_heads)]
    norm = attention.post_norm
    if norm is not None:
        mean_square = torch.stack(written).sum(0).pow(2).sum(1, keepdim=True) / always.shape[1]
        root = torch.sqrt(mean_square + norm.eps)  # (N, 1)
        gain = torch.ones_like(always[0]) if norm.weight is None else norm.weight + float(norm.plus_one)
        # What ablated edges carry is on the same scale: of a run whose coefficients are divided by its own root.
        written, replaced = [x / root * gain for x in written], [x * gain for x in replaced]
    return _Residual(residual.written, residual.replaced, always).plus(written, replaced)


def _head_normed(norm: Any, x: Float[Tensor, "CB n S k"]) -> Float[Tensor, "CB n S k"]:
    """Each head by its own norm, or all by one: `x / √(mean over heads and components of x² + eps)`, times the gain."""
    if not isinstance(norm, Norm):
        return x if norm is None else _frozen(norm)(x)
    root = (x.pow(2).sum((1, 3), keepdim=True) / (x.shape[1] * x.shape[3]) + norm.eps).sqrt()
    assert norm.weight is not None and not norm.plus_one
    gains = norm.weight.split(x.shape[3])  # of the physical heads; copies stand side by side
    copies = x.shape[1] // len(gains)
    return torch.stack([x[:, i] / root[:, 0] * gains[i // copies] for i in range(x.shape[1])], 1)


def _frozen(module: Any) -> Any:
    """A user's module as a function that gives its own parameters no gradient."""
    if not isinstance(module, nn.Module):
        return module
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return lambda x: functional_call(module, weights, (x,))
