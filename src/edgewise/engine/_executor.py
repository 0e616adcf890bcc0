"""The masked run and its backward, by hand: one write-once stack of differences serves every reader.

With Δ_w = z_w − z̃_w, a reader's input is `x_r = base_r + Σ_w m_rw Δ_w`: for a block of readers and a chunk of tokens,
one matrix product. With g_r = ∂loss/∂x_r, again one product each: ∂loss/∂m_rw = ⟨g_r, Δ_w⟩ and ∂loss/∂Δ_w = Σ_r m_rw
g_r. The blocks are walked forwards, then backwards; readers' inputs are never kept but made again, chunk by chunk, so
that they stay in the processor's cache.

Norms cost nothing extra: the gain goes into the projection and the scale onto its output, and where norms are layer
    norms everything
that is written is centred first (which commutes with sums), so that both kinds of norm are a division by the root mean
square.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._packing import Packing
from edgewise.engine._plan import BlockPlan, Plan
from edgewise.engine._reads import Read, Saved, centre, read_backward, read_forward
from edgewise.engine._stack import HeadSlots, Stack
from edgewise.engine._writes import Writes, make_rotary
from edgewise.graph import Graph
from edgewise.models import Layer, Parts


@dataclass
class Gradients:
    """What a backward gives."""

    masks: Float[Tensor, "CP E"]
    ablated: Writes | None
    """Gradients of the ablated values, for values that all tokens share; None if not asked for."""


class Executor:
    """One masked run of a batch: `forward` once, then `backward` at most once."""

    def __init__(
        self,
        parts: Parts,
        graph: Graph,
        packing: Packing,
        masks: Float[Tensor, "CP E"],
        plan: Plan,
        clean: tuple[Float[Tensor, "N D"], ...],
        ablated: Writes,
        base: list[Float[Tensor, "M D"]],
        head_bias: bool = False,
    ) -> None:
        """Set up a run.

        Args:
            parts: the model.
            graph: its graph.
            packing: the batch, N packed tokens.
            masks: one row per circuit and position group.
            plan: what to skip and share under these masks.
            clean: the embedding terms of the packed tokens.
            ablated: what removed edges carry, per packed token or the same for all.
            base: for each block, what its readers get with all edges ablated; centred where norms are layer norms.
            head_bias: each head carries a share of b_O (see `Ablation.bias`).
        """
        self.parts, self.graph, self.packing, self.plan, self.masks = parts, graph, packing, plan, masks
        self.clean, self.ablated, self.base, self.head_bias = clean, ablated, base, head_bias
        self.centred = parts.final_norm.kind == "layer"
        self.saved: dict[int, Saved] = {}
        self.rotary = make_rotary(parts, packing)
        self.real = None if packing.full else packing.real.repeat(packing.n_copies, 1)

    # ------------------------------------------------------------------------------------------------------------------
    # forward

    @torch.no_grad()
    def forward(self, targets: Int[Tensor, " A"]) -> Float[Tensor, "A D"]:
        """Run the circuits; the input of the final norm at the target tokens (packed indices)."""
        plan = self.plan
        self.stack = Stack(len(plan.writers), self.packing.n_tokens, self.parts.d_model, self.masks)
        for slot in range(plan.n_live_embeddings):
            writer = int(plan.writers[slot])
            self._write(slice(slot, slot + 1), self.clean[writer] - self.ablated.embeds[writer])
        for index, layer in enumerate(self.parts.layers):
            attention, mlp = plan.blocks[2 * index], plan.blocks[2 * index + 1]
            if (
                self.parts.parallel
            ):  # the MLP's input does not hold its own layer's heads, so it can be read before they are written
                written = self._mlp_output(mlp, layer)
                self._run_attention(attention, layer)
            else:
                self._run_attention(attention, layer)
                written = self._mlp_output(mlp, layer)
            if written is not None:
                self._write(mlp.slots, written - self.ablated.mlps[index])
        return self._logits_input(targets)

    def _run_attention(self, plan: BlockPlan, layer: Layer) -> None:
        if not len(plan.heads):
            return
        index = plan.block.layer
        self.saved[2 * index] = saved = self._read(plan, self._attention_read(plan, layer))
        mixed = layer.attention.mix(*self._unpacked(plan, saved.projected), self.rotary, self.real)
        ablated = self.ablated.heads[index][:, plan.heads] if self.plan.skips else self.ablated.heads[index]
        difference = self.packing.pack(mixed) - ablated  # (N, h, v)
        self.stack.write_heads(self._head_slots(plan, layer), difference.transpose(0, 1), self._bias_share(layer))

    def _mlp_output(self, plan: BlockPlan, layer: Layer) -> Float[Tensor, "N D"] | None:
        if not len(plan.heads):
            return None
        self.saved[2 * plan.block.layer + 1] = saved = self._read(plan, Read.of_mlp(layer.mlp, self.masks.dtype))
        hidden = layer.mlp.hidden(*_pre_activations(layer, saved.projected[0]))
        down, bias = layer.mlp.down.to(hidden.dtype), layer.mlp.down_bias
        return hidden @ down if bias is None else torch.addmm(bias.to(hidden.dtype), hidden, down)

    def _write(self, slots: slice, difference: Float[Tensor, "N D"]) -> None:
        difference = difference.to(self.masks.dtype)
        self.stack.write(slots, (centre(difference) if self.centred else difference)[None])

    def _read(self, plan: BlockPlan, read: Read) -> Saved:
        return read_forward(read, plan, self.packing, self.stack, self.base[self._block_index(plan)])

    def _logits_input(self, targets: Int[Tensor, " A"]) -> Float[Tensor, "A D"]:
        plan, base = self.plan.blocks[-1], self.base[-1]
        edges = self.masks[:, plan.block.edges]
        mask = (edges[:, self.plan.writers.to(edges.device)] if self.plan.skips else edges)[
            self.packing.rows()[targets]
        ]
        self.targets, self.target_mask = targets, mask  # (A, w)
        x = (base if len(base) == 1 else base[targets]).to(mask.dtype)
        return x + torch.einsum("aw,wad->ad", mask, self.stack.at(plan.n_writers, targets))

    # -----------------------------------------------------------------------------------------------------------------
    # backward

    @torch.no_grad()
    def backward(self, gradient: Float[Tensor, "A D"], ablated: bool = False) -> Gradients:
        """Walk back from the gradient of `forward`'s result.

        Args:
            gradient: ∂loss/∂(what `forward` returned).
            ablated: whether gradients of the ablated values are wanted.
        """
        self.gradients = torch.zeros_like(self.masks)
        stack, packing = self.stack, self.packing
        stack.start_backward()
        self.passed = gradient.new_zeros(packing.n_tokens, self.parts.d_model) if ablated else None  # Σ_r g_r so far
        embeds, heads, mlps = [], [], []
        self._logits_backward(gradient)
        for index in reversed(range(len(self.parts.layers))):
            layer = self.parts.layers[index]
            attention, mlp = self.plan.blocks[2 * index], self.plan.blocks[2 * index + 1]
            if ablated:
                mlps.append(self._ablated_gradient(mlp.slots).sum(0))
            if (
                self.parts.parallel
            ):  # the MLP does not read its own layer's heads: they are complete before it is walked
                mixed = self._heads_gradient(attention, layer, heads)
                self._mlp_backward(mlp, layer)
            else:
                self._mlp_backward(mlp, layer)
                mixed = self._heads_gradient(attention, layer, heads)
            self._attention_backward(attention, layer, mixed)
        if not ablated:
            return Gradients(self.gradients, None)
        for slot in range(self.plan.n_live_embeddings):
            embeds.append(self._ablated_gradient(slice(slot, slot + 1)).sum(0))
        return Gradients(self.gradients, Writes(tuple(embeds), tuple(heads[::-1]), tuple(mlps[::-1])))

    def _logits_backward(self, gradient: Float[Tensor, "A D"]) -> None:
        plan = self.plan.blocks[-1]
        differences = self.stack.at(plan.n_writers, self.targets)
        per_target = torch.einsum("ad,wad->aw", gradient, differences)
        rows = self.packing.rows()[self.targets]
        block = self.gradients[:, plan.block.edges]
        columns = self.plan.writers.to(block.device)
        block.index_put_((rows[:, None], columns[None]), per_target, accumulate=True)
        self.stack.add_gradient_at(self.target_mask.T[..., None] * gradient, self.targets)
        if self.passed is not None:
            self.passed.index_add_(0, self.targets, gradient)

    def _mlp_backward(self, plan: BlockPlan, layer: Layer) -> None:
        if not len(plan.heads):
            return
        written = self.stack.gradient(plan.slots)[0]  # (N, D)
        if self.centred:
            written = centre(written)
        saved = self.saved.pop(2 * plan.block.layer + 1)
        with torch.enable_grad():  # only the activation function is differentiated by autograd
            projected = saved.projected.requires_grad_()
            hidden = layer.mlp.hidden(*_pre_activations(layer, projected[0]))
        (gradient,) = torch.autograd.grad(hidden, projected, written @ layer.mlp.down.to(written.dtype).T)
        self._read_backward(plan, Read.of_mlp(layer.mlp, self.masks.dtype), saved, gradient)

    def _heads_gradient(self, plan: BlockPlan, layer: Layer, ablated: list[Tensor]) -> Float[Tensor, "h N v"] | None:
        if self.passed is not None:
            output = layer.attention.output.to(self.masks.dtype)
            ablated.append(torch.einsum("hnd,hvd->nhv", self._ablated_gradient(plan.slots), output))
        return self.stack.gradient_heads(self._head_slots(plan, layer)) if len(plan.heads) else None

    def _attention_backward(self, plan: BlockPlan, layer: Layer, mixed_gradient: Tensor | None) -> None:
        if mixed_gradient is None:
            return
        saved = self.saved.pop(2 * plan.block.layer)
        with torch.enable_grad():  # rotary, query and key norms and the softmax are differentiated by autograd
            projected = saved.projected.requires_grad_()
            mixed = layer.attention.mix(*self._unpacked(plan, projected), self.rotary, self.real)
        (gradient,) = torch.autograd.grad(mixed, projected, self.packing.unpack(mixed_gradient.transpose(0, 1)))
        self._read_backward(plan, self._attention_read(plan, layer), saved, gradient)

    def _read_backward(self, plan: BlockPlan, read: Read, saved: Saved, gradient: Float[Tensor, "n N k"]) -> None:
        base = self.base[self._block_index(plan)]
        masks = read_backward(
            read, plan, self.packing, self.stack, base, saved, gradient, self.plan.all_edges, self.passed
        )
        block = self.gradients[:, plan.block.edges].view(
            len(self.gradients), plan.block.n_readers, plan.block.n_writers
        )
        if self.plan.skips:
            columns = self.plan.writers[: plan.n_writers].to(block.device)
            block[:, plan.live.to(block.device)[:, None], columns[None]] = masks
        else:
            block.copy_(masks)

    def _ablated_gradient(self, slots: slice) -> Float[Tensor, "n N D"]:
        """∂loss/∂z̃_w = Σ_r g_r − Σ_r m_rw g_r over the readers after w."""
        assert self.passed is not None
        gradient = (self.passed - self.stack.gradient(slots)).sum(1, keepdim=True)
        return centre(gradient) if self.centred else gradient

    # ------------------------------------------------------------------------------------------------------------------
    # helpers

    def _block_index(self, plan: BlockPlan) -> int:
        return 2 * plan.block.layer + (plan.block.kind == "mlp")

    def _attention_read(self, plan: BlockPlan, layer: Layer) -> Read:
        repeats = self.graph.n_kv_readers // self.parts.n_kv_heads
        heads, keys = (plan.heads, plan.keys) if self.plan.skips else (None, None)
        return Read.of_attention(layer.attention, repeats, heads, keys, self.masks.dtype)

    def _head_slots(self, plan: BlockPlan, layer: Layer) -> HeadSlots:
        output = layer.attention.output[plan.heads] if self.plan.skips else layer.attention.output
        output = output.to(self.masks.dtype)
        return HeadSlots(plan.slots, centre(output) if self.centred else output)

    def _bias_share(self, layer: Layer) -> Float[Tensor, " D"] | None:
        bias = layer.attention.output_bias
        if bias is None or not self.head_bias:
            return None
        share = bias.to(self.masks.dtype) / self.parts.n_heads
        return centre(share) if self.centred else share

    def _unpacked(self, plan: BlockPlan, projected: Float[Tensor, "n N k"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values on the padded grid, keys and values repeated to the running query heads."""
        sizes = [len(plan.heads), len(plan.keys), len(plan.keys)]
        query, key, value = (self.packing.unpack(x.transpose(0, 1)) for x in projected.split(sizes))
        if len(plan.keys) != len(plan.heads):
            key, value = key[:, plan.key_of_head], value[:, plan.key_of_head]
        return query, key, value


def _pre_activations(layer: Layer, projected: Float[Tensor, "N F"]) -> tuple[Tensor | None, Tensor]:
    """The MLP's pre-activations as (gate, up); the gate is None without one."""
    if layer.mlp.gate is None:
        return None, projected
    gate, up = projected.chunk(2, -1)
    return gate, up
