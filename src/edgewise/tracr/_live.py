"""Which edges of a compiled model can carry anything at all, read off its weights.

Compiled weights are mostly zeros, laid out so that each component reads and writes its own directions of the residual
stream. An edge is *inert* if nothing its writer may write is seen by its reader: then no circuit is changed by it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine import Engine
from edgewise.graph import HEAD, Graph, Role
from edgewise.models import CompiledTransformer, Layer


def live_edges(engine: Engine) -> Bool[Tensor, " E"]:
    """The edges that may carry something in some circuit, `[E]`; all others provably carry nothing in any.

    An edge brings its reader `m Δ`, where Δ lies in the span of what its writer can write (under interchange, of the
    differences of what it can write at one position). It is inert if that span times the reader's projection is exactly
    0; for a query, if its product with every possible key is (and the other way round); or if its reader then has no
    way to the output.
    """
    graph, parts = engine.graph, engine.model.parts
    if apart := graph.spec.apart:
        raise InputError(f"tracr: the graph has {apart} in MLPs' places; the true circuit is one of heads and MLPs")
    whole = _Span(engine, differences=False)
    change = _Span(engine, differences=True, whole=whole) if engine.ablation.kind == "interchange" else whole
    live = torch.zeros(graph.n_edges, dtype=torch.bool)
    for reader, (layer, head) in enumerate(zip(graph.reader_layer.tolist(), graph.reader_head.tolist(), strict=True)):
        role, n_writers = graph.role(reader), int(graph.visible[reader])
        projection = _projection(engine, role, layer, head)
        if role in ("query", "key"):
            heads = parts.layers[layer].attention
            other = heads.key if role == "query" else heads.query
            seen = whole.before(n_writers) @ other.weight[head]  # (n, k)
            bias = seen.new_zeros(1, seen.shape[1]) if other.bias is None else other.bias[head][None]
            projection = projection @ torch.cat([seen + bias, bias]).T
        for writer in range(n_writers):
            live[int(graph.offset[reader]) + writer] = bool((change.of(writer) @ projection).any())
    return graph.prune(live, engine.ablation.kind)


def _projection(engine: Engine, role: Role, layer: int, head: int) -> Float[Tensor, "D k"]:
    parts = engine.model.parts
    if role == "logits":
        zero = torch.zeros(1, parts.d_model)
        return parts.unembed(torch.eye(parts.d_model)) - parts.unembed(zero)
    if role == "mlp":
        return parts.layers[layer].mlp.inputs[0][0]
    return getattr(parts.layers[layer].attention, role).weight[head]


class _Span:
    """Vectors that span what each writer can write or, with `differences`, what may change in it when its inputs do."""

    def __init__(self, engine: Engine, differences: bool, whole: "_Span | None" = None) -> None:
        self.graph: Graph = engine.graph
        self.layers: Sequence[Layer] = engine.model.parts.layers
        module = engine.model.module
        assert isinstance(module, CompiledTransformer)
        self.module, self.differences, self.whole = module, differences, whole or self
        self.known: dict[int, Float[Tensor, "n D"]] = {}

    def of(self, writer: int) -> Float[Tensor, "n D"]:
        """Of one writer, `[n, D]`; no rows for one that writes nothing (or always the same)."""
        if writer not in self.known:
            layer = int(self.graph.writer_layer[writer])
            if layer < 0:
                self.known[writer] = self._embedding(writer)
            elif int(self.graph.writer_kind[writer]) == HEAD:
                self.known[writer] = self._head(layer, int(self.graph.writer_head[writer]))
            else:
                self.known[writer] = self._mlp(layer)
        return self.known[writer]

    def before(self, n_writers: int) -> Float[Tensor, "n D"]:
        """Of the first writers together."""
        return torch.cat([self.of(writer) for writer in range(n_writers)])

    def _embedding(self, writer: int) -> Float[Tensor, "n D"]:
        tokens, positions = (each.weight.detach() for each in (self.module.tokens, self.module.positions))
        program = self.module.program
        symbols = program.inputs[(program.inputs != program.pad) & (program.inputs != program.bos)].unique()
        if self.differences:  # clean and corrupted inputs are equally long, and both start with BOS
            tokens, positions = tokens[symbols] - tokens[symbols[:1]], positions[:0]
        else:
            tokens = tokens[[program.bos, *symbols.tolist()]]
        if self.graph.spec.embeddings == "split":
            return (tokens, positions)[writer]
        return torch.cat([tokens, positions])

    def _head(self, layer: int, head: int) -> Float[Tensor, "n D"]:
        attention = self.layers[layer].attention
        # Where a head looks may change while nothing that it sees does, so a change may be any mixture of its values.
        values = self.whole.before(self.graph.attention(layer).n_writers) @ attention.value.weight[head]  # (n, v)
        if attention.value.bias is not None and not self.differences:
            values = torch.cat([values, attention.value.bias[head][None]])
        return attention.output[head][values.any(0)]

    def _mlp(self, layer: int) -> Float[Tensor, "n D"]:
        mlp = self.layers[layer].mlp
        assert mlp.up is not None and mlp.down is not None  # as compiled models have it
        used = (self.before(self.graph.mlp(layer).n_writers) @ mlp.up).any(0)
        if self.differences:
            return mlp.down[used]
        if mlp.up_bias is not None:
            used |= mlp.up_bias > 0  # ReLU: it then writes without any input
        return mlp.down[used] if mlp.down_bias is None else torch.cat([mlp.down[used], mlp.down_bias[None]])
