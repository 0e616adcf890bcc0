"""Running a prompt again with some of its nodes changed, and as much frozen as asked for.

What is carried up the layers is the change of the stream, for several sets of edits at once. Three ways, by layer:

* `frozen`: attention patterns, norm scales and the values of all other nodes are the prompt's. An edit's effect is then
  its direct one, linear; that of taking a node away is minus its edge of the attribution graph.
* `attention`: patterns and norm scales are the prompt's, MLPs are computed again. (A large change may overflow a deep
  model with gated MLPs: their products grow, and no norm holds them.)
* `open`: everything is computed again: what the model itself does.

With `from_layer`, the layers below are frozen and those from it on are as asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._access import Read, access_to
from edgewise.attribution._edits import Edit, Table, error_factors
from edgewise.attribution._features import Features
from edgewise.attribution._frozen import FrozenLayer, FrozenNorm, frozen_run, rotary_as
from edgewise.attribution._kinds import AttributionConfig, nodes_of, token_ids
from edgewise.attribution._nodes import Nodes
from edgewise.attribution._targets import token_id
from edgewise.models import Mlp, Model, Norm
from edgewise.models.block import hidden, linear, mix, normed, project, write_heads
from edgewise.runs import gradients
from edgewise.transcoders import Transcoder, norm_before

Propagation = Literal["frozen", "attention", "open"]


@dataclass(frozen=True, eq=False)
class Intervention:
    """What edits did to a prompt's logits."""

    before: Float[Tensor, "S V"]
    """At every position, of the model as it is."""
    after: Float[Tensor, "S V"]
    """With the edits."""
    propagation: Propagation
    """What was computed again."""
    from_layer: int
    """Below it all was frozen."""
    tokenizer: Any = field(repr=False, default=None)

    def change(self, token: int | str, minus: int | str | None = None, position: int = -1) -> float:
        """By how much a token's logit rose, or that of two tokens' difference.

        Args:
            token: its id, or its text.
            minus: the other token.
            position: where; −1: at the prompt's last token.

        Raises:
            InputError: a token or position is not there.
        """
        if not -len(self.after) <= position < len(self.after):
            raise InputError(f"position {position}: the prompt has {len(self.after)} tokens")
        risen = (self.after - self.before)[position]
        found = risen[token_id(token, self.tokenizer, len(risen), "token")]
        return float(found if minus is None else found - risen[token_id(minus, self.tokenizer, len(risen), "token")])


def intervene(
    model: Model,
    prompt: str | Sequence[int] | Int[Tensor, " S"],
    edits: Sequence[Edit],
    nodes: Literal["neurons"] | Transcoder | Sequence[Transcoder] = "neurons",
    *,
    propagation: Propagation = "open",
    from_layer: int = 0,
    config: AttributionConfig | None = None,
    dtype: torch.dtype | None = None,
) -> Intervention:
    """Change nodes on a prompt.

    Args:
        model: the model.
        prompt: a text, or tokens such as a graph's `ids`.
        edits: what to change; of edits of one node, later ones act on what earlier ones made of it.
        nodes: what the edits name: neurons, or features of these transcoders.
        propagation: what is computed again, see above.
        from_layer: the layers below are frozen.
        config: of the graph, where the edits name errors: which neurons are nodes.
        dtype: of all activations, float32 or float64; None: the weights', and at least float32.

    Raises:
        InputError: an edit names a node or position that is not there, there is no such propagation or layer, or a
            setting or type that the nodes or sums cannot have.
    """
    ids = token_ids(model, prompt, None if config is None else config.bos)
    if propagation not in ("frozen", "attention", "open"):
        raise InputError(f"propagation {propagation!r}: choose frozen, attention or open")
    n_layers = len(model.parts.layers)
    if not 0 <= from_layer <= n_layers:
        raise InputError(f"from_layer {from_layer}: the model has {n_layers} layers; give 0 to {n_layers}")
    kinds = nodes_of(frozen_run(model, ids, dtype), nodes, config or AttributionConfig())
    run = EditedRun.of(kinds, [edits], propagation, from_layer)
    before, after = run.logits()
    return Intervention(before, after[:, 0], propagation, from_layer, model.tokenizer)


class EditedRun:
    """Runs of one prompt, each with its own changes."""

    def __init__(
        self,
        nodes: Nodes,
        n_runs: int,
        table: Callable[[int], Table | None],
        propagation: Propagation = "open",
        from_layer: int = 0,
        error_factors: Callable[[int], Float[Tensor, " N"] | None] | None = None,
    ) -> None:
        """Set up.

        Args:
            nodes: of the prompt's own run.
            n_runs: K.
            table: a layer's changes, of S · K tokens: at each position all runs.
            propagation: what is computed again.
            from_layer: the layers below are frozen.
            error_factors: by how much of itself a layer's error changes at each of these tokens.
        """
        self.nodes, self.run, self.n_runs, self.table = nodes, nodes.run, n_runs, table
        self.propagation: Propagation = propagation
        self.from_layer, self.error_factors = from_layer, error_factors
        self.access = access_to(nodes)
        self.pending = dict[int, Tensor]()
        self.between = dict[int, Tensor]()
        """Changes of the stream that MLPs read, by layer, of layers asked for by `keep`."""
        self.keep = frozenset[int]()

    @staticmethod
    def of(
        nodes: Nodes, edits: Sequence[Sequence[Edit]], propagation: Propagation = "open", from_layer: int = 0
    ) -> "EditedRun":
        """Of one set of edits for each run. Raises `InputError`."""
        access = access_to(nodes)
        for each in (each for some in edits for each in some):
            access.check(each)
            each.check_length(len(nodes.run))
        tokens = torch.cartesian_prod(torch.arange(len(nodes.run)), torch.arange(len(edits))).to(nodes.run.ids.device)
        table = partial(Table.of, edits, position=tokens[:, 0], owner=tokens[:, 1])
        errors = partial(error_factors, edits, position=tokens[:, 0], owner=tokens[:, 1])
        return EditedRun(nodes, len(edits), table, propagation, from_layer, errors)

    def way(self, layer: int) -> Propagation:
        """What a layer computes again; of the final norm, that after the last."""
        return "frozen" if layer < self.from_layer else self.propagation

    @torch.no_grad()
    def change(self) -> Float[Tensor, "S K D"]:
        """Of the stream after the last layer."""
        final = self.run.final
        change = final.new_zeros(len(final), self.n_runs, final.shape[1])
        for layer in range(len(self.run.layers)):
            added = self.attention(layer, change)
            between = change if self.run.model.parts.parallel else change + added
            if layer in self.keep:
                self.between[layer] = between
            change = change + added + self.mlp(layer, between)
        return change

    def attention(self, layer: int, change: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"]:
        """By how much more a layer's attention writes."""
        ran = self.run.layers[layer]
        if not change.any():
            return change
        if self.way(layer) != "open":
            return ran.write(ran.mixed_forward(ran.values_forward(change)))
        before = ran.before[:, None]
        return _attend(ran, before + change) - _attend(ran, before)

    def mlp(self, layer: int, change: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"]:
        """By how much more a layer's MLP adds to the stream."""
        ran, mlp, way = self.run.layers[layer], self.run.layers[layer].layer.mlp, self.way(layer)
        self.edit(layer, change)
        edited, nothing = self.pending.pop(layer, None), torch.zeros_like(change)
        edited = nothing if edited is None else edited
        inner, outer = (edited, nothing) if self.nodes.before_post_norm else (nothing, edited)  # of a post-norm
        outer = outer + self.error_change(layer, change)
        if way == "frozen":
            skipped = self.nodes.skip_forward(layer, change)
            outer = outer if skipped is None else outer + skipped
        elif change.any() or mlp.post_norm is not None:
            base = _raw(mlp, self.inputs(layer, "frozen", nothing[:, :1])("mlp_in"))
            inner = inner + _raw(mlp, self.inputs(layer, way, change)("mlp_in")) - base
            if way == "open" and mlp.post_norm is not None:
                return outer + normed(mlp.post_norm, base + inner) - normed(mlp.post_norm, base)
        return outer + (inner if ran.mlp_post_norm is None else ran.mlp_post_norm.forward(inner))

    def edit(self, layer: int, change: Float[Tensor, "S K D"]) -> None:
        """What the edits of a layer's nodes write, into `pending`."""
        table = self.table(layer)
        if table is None:
            return
        read = self.inputs(layer, self.way(layer), change)
        value = self.access.value(
            layer, table.nodes, lambda kind: read(kind).flatten(0, 1)[table.rows], self.off[table.rows]
        )
        for at, rows in self.access.written(layer, table.nodes, table.change(value)).items():
            flat = self.pending.get(at, torch.zeros_like(change)).flatten(0, 1)
            self.pending[at] = flat.index_add(0, table.rows, rows).view_as(change)

    @property
    def off(self) -> Tensor:
        """At which of the S · K tokens transcoders that leave out special tokens are off."""
        special = self.nodes.special if isinstance(self.nodes, Features) else torch.zeros_like(self.run.ids).bool()
        return special.repeat_interleave(self.n_runs)

    def error_change(self, layer: int, like: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"]:
        """By how much its error changes: a multiple of what it is on the prompt."""
        factors = None if self.error_factors is None else self.error_factors(layer)
        if factors is None:
            return torch.zeros_like(like)
        return self.nodes.errors[layer][:, None] * factors.to(like).view(len(like), -1, 1)

    def inputs(self, layer: int, way: Propagation, change: Float[Tensor, "S K D"]) -> Read:
        """What a layer's MLP is given."""
        ran = self.run.layers[layer]
        stream = ran.between[:, None] + (torch.zeros_like(change) if way == "frozen" else change)

        def read(kind: str) -> Float[Tensor, "S K D"]:
            asked = norm_before(ran.layer, kind)
            if asked is None:
                return stream
            return normed(asked, stream) if way == "open" else _frozen(ran.mlp_norm, asked, stream)

        return read

    def read_out(self, change: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"]:
        """What the unembedding reads, for changes of the stream after the last layer."""
        norm, final = self.run.final_norm, self.run.final[:, None]
        if self.way(len(self.run.layers)) == "open":
            return normed(norm.norm, final + change)
        return normed(norm.norm, final) + norm.forward(change)

    @torch.no_grad()
    def logits(self) -> tuple[Float[Tensor, "S V"], Float[Tensor, "S K V"]]:
        """Before and after. Frozen, a soft-cap of the logits counts with its slope."""
        unembed, read = self.run.model.parts.unembed, normed(self.run.final_norm.norm, self.run.final)
        after = self.read_out(self.change())
        before = unembed(read).to(read)
        if self.propagation != "frozen":
            return before, unembed(after.flatten(0, 1)).to(read).unflatten(0, after.shape[:2])
        rows = read.repeat_interleave(self.n_runs, 0)
        with gradients():
            risen = torch.autograd.functional.jvp(unembed, rows, after.flatten(0, 1) - rows)[1]
        assert isinstance(risen, Tensor)
        return before, before[:, None] + risen.to(read).unflatten(0, after.shape[:2])


def _raw(mlp: Mlp, given: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"]:
    """What an MLP gives before any post-norm."""
    if mlp.down is None:
        return mlp.run_module(given)
    return linear(hidden(mlp, [linear(given, *each) for each in mlp.inputs]), mlp.down, mlp.down_bias)


def _frozen(frozen: FrozenNorm, norm: Norm, x: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"]:
    """A norm (the frozen one, or that without gain and bias) with its scale as it is."""
    scaled = frozen._replace(norm=norm).forward(x)
    return scaled if norm.bias is None else scaled + norm.bias.to(x)


def _attend(ran: FrozenLayer, x: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"]:
    """What a layer's attention writes for K streams."""
    attention, (length, n) = ran.layer.attention, x.shape[:2]
    y = normed(attention.norm, x).transpose(0, 1).flatten(0, 1)  # (K S, D)
    query, key, value = (
        project(y, heads).unflatten(1, (n, length)).transpose(0, 1)  # (K, heads, S, k)
        for heads in (attention.query, attention.key, attention.value)
    )
    context = ran.pattern.context
    mixed = mix(attention, query, key, value, context._replace(rotary=rotary_as(y, context)))  # (K, H, S, v)
    written = write_heads(attention, mixed.transpose(1, 2).flatten(0, 1))
    return written.unflatten(0, (n, length)).transpose(0, 1)
