"""The masked run and its backward, by hand: one write-once stack of differences serves every reader.

With Δ_w = z_w − z̃_w, a reader's input is `x_r = base_r + Σ_w m_rw Δ_w`: for a block of readers and a chunk of tokens,
one matrix product. With g_r = ∂loss/∂x_r, again one product each: ∂loss/∂m_rw = ⟨g_r, Δ_w⟩ and ∂loss/∂Δ_w = Σ_r m_rw
g_r. The blocks are walked forwards, then backwards; readers' inputs are not kept but made again, chunk by chunk, so
that they stay in the processor's cache. A few layers in a row share the products over the writers before all of them
(`_group.py`); their readers' rows stand in memory for as long as the group is walked.

What a layer computes is in `edgewise.models.block`; the executor decides what is run, in what order, and on what. Where
norms are layer norms, everything that is written is centred first (which commutes with sums), so that both kinds divide
by the root mean square.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._constants import Constants
from edgewise.engine._group import LayerGroup, layer_groups
from edgewise.engine._masked_batch import ArrangedModel, Gradients, MaskedBatch
from edgewise.engine._matmul import matmul_precision
from edgewise.engine._plan import LayerPlan, NodePlan, Plan
from edgewise.engine._reads import BlockRead, ReadRun
from edgewise.engine._stack import HeadSlots, LeanStack, Stack
from edgewise.engine._trees import mapped
from edgewise.engine._writes import Writes, attention_contexts
from edgewise.engine.features import FeatureRun, NeuronBlock, NeuronRun
from edgewise.models import Layer
from edgewise.models.block import centre, mix
from edgewise.models.folded import FoldedHeads, FoldedMlp, MlpRun


class Executor:
    """One masked run of a batch: `forward` once, then `backward` at most once."""

    def __init__(self, model: ArrangedModel, batch: MaskedBatch, plan: Plan) -> None:
        """Set up a run; `plan` says what to skip and share under the batch's masks."""
        self.model, self.parts, self.graph = model, model.parts, model.graph
        self.batch, self.masks, self.constants = batch, batch.masks, batch.constants
        self.share, self.packing = batch.share, batch.share.own
        self.mine = (batch.targets >= 0).nonzero()[:, 0]  # which targets stand on this process's tokens
        self.targets = batch.targets[self.mine]
        self.plan, self.lean, self.dtype = plan, model.lean, model.dtype or batch.masks.dtype
        self.centred = self.parts.final_norm.kind == "layer"
        self.saved: list[tuple[ReadRun, MlpRun | None, ReadRun | None]] = []
        self.active: dict[int, Float[Tensor, "n N g"]] = {}  # by layer, the running nodes' activations, less ablated
        self.waiting: dict[int, Float[Tensor, "n N g"]] = {}  # ∂loss/∂those, gathered from all that they write to
        self.groups = layer_groups(plan.layers, plan.all_edges)
        self.contexts = attention_contexts(self.parts, self.packing)
        self.fixed_keys: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.slots: tuple[int, HeadSlots] | None = None  # of the layer that was walked last

    # ------------------------------------------------------------------------------------------------------- forward

    @torch.no_grad()
    def forward(self, keep: bool = True) -> Float[Tensor, "A D"]:
        """The input of the final norm at the targets; `keep` what a backward needs."""
        plan = self.plan
        self.stack = self._empty_stack()
        for slot, writer in enumerate(plan.writers[: plan.n_live_embeddings].tolist()):
            self._write(slot, self.batch.clean[writer] - self.constants.embedding(writer))
        group = None
        for layer_plan, layer in zip(plan.layers, self.parts.layers, strict=True):
            if layer_plan is self._group_layers(layer_plan)[0]:
                group = None  # the old group must be gone before the new one takes its buffer
                group = self._enter_group(layer_plan)
            read = self._attention_read(layer_plan, group)
            saved, mlp_sum = read.forward()
            heads = self._head_slots(layer_plan, layer)
            if not self.parts.parallel:
                self._write_heads(layer_plan, layer, saved, heads)
            x, saved_mlp = self._mlp_input(layer_plan, mlp_sum, read.base, heads), None
            saved_nodes = self._run_nodes(layer_plan)
            if self.parts.parallel:  # only now: the MLP does not read its own layer's heads
                self._write_heads(layer_plan, layer, saved, heads)
            if layer_plan.mlp_slot is not None:
                written, saved_mlp = self._mlp(layer_plan, layer).write(x, keep=not self.lean)
                self._write(layer_plan.mlp_slot, written - self._ablated_mlp(layer_plan))
            if keep:
                self.saved.append((saved, saved_mlp, saved_nodes))
        final = self._logits_input()
        if not keep:
            self.stack.release()
        return final

    def _empty_stack(self) -> Stack:
        n_writers, n_tokens, d_model = len(self.plan.writers), self.packing.n_tokens, self.parts.d_model
        if not self.lean:
            return Stack(n_writers, n_tokens, d_model, self.masks, self.dtype, self.model.workspace)
        slots = [*range(self.plan.n_live_embeddings)]
        in_mlps = [(own.mlp_slot, own.nodes.error_slot if own.nodes else None) for own in self.plan.layers]
        slots += [slot for own in in_mlps for slot in own if slot is not None]
        return LeanStack(n_writers, n_tokens, d_model, self.masks, self.dtype, self.model.workspace, slots)

    def _base(self, block: int) -> Float[Tensor, "M D"]:
        """What a block's readers get with all edges ablated; centred where norms are layer norms."""
        base, kept = self._base_at(block, self.constants, self.batch.clean[0]), self.batch.kept.get(block)
        return base if kept is None else base + (centre(kept) if self.centred else kept)

    def _base_at(self, block: int, constants: Constants, clean: Float[Tensor, "N D"]) -> Float[Tensor, "M D"]:
        base = constants.base(block).detach().to(self.masks.dtype)
        base = base if self.graph.n_embeddings else base + clean
        return centre(base) if self.centred else base

    def _write_heads(self, plan: LayerPlan, layer: Layer, saved: ReadRun, heads: HeadSlots) -> None:
        if not len(plan.heads):
            return
        mixed = self._mix(plan, layer, self.share.gathered(saved.projected))
        ablated = self.constants.heads(plan.layer).detach()
        ablated = ablated if len(plan.heads) == self.parts.n_heads else ablated[:, plan.heads]
        difference = (self.packing.pack(mixed).to(self.masks.dtype) - ablated) * self.batch.scale  # (N, h, v)
        self.stack.write_heads(heads, difference.transpose(0, 1))

    def _mlp_input(
        self, plan: LayerPlan, mlp_sum: Float[Tensor, "N D"], attention_base: Float[Tensor, "M D"], heads: HeadSlots
    ) -> Float[Tensor, "N D"]:
        """The MLP's input: its sum that was read along with attention, and its own layer's heads."""
        if plan.mlp_slot is None:
            return mlp_sum
        base = self._base(plan.mlp.number)
        base, attention_base = (b.expand(self.packing.n_tokens, -1) for b in (base, attention_base))
        x = torch.empty_like(mlp_sum)
        for start, stop, row in self.packing.segments:
            tokens, kind = slice(start, stop), plan.mlp_kind(row)
            if kind == "mix":
                x[tokens] = mlp_sum[tokens] + (base[tokens] - attention_base[tokens])
                if plan.own.shape[1]:
                    x[tokens] += self.stack.mix_heads(heads, plan.own[row], tokens)
            else:
                x[tokens] = base[tokens] + self.stack.total[tokens] if kind == "ones" else base[tokens]
        return x

    def _run_nodes(self, plan: LayerPlan) -> ReadRun | None:
        """Run a layer's features or neurons, if it has any, and write them, earlier layers' places and the error term;
        the rest of neurons is the MLP's.
        """
        own, saved = plan.nodes, None
        if own is None:
            return None
        if len(own.readers):
            nodes, fixed = self.model.nodes[plan.layer], self.batch.nodes[plan.layer]
            saved, _ = self._nodes_read(plan, own).forward()
            active = nodes.activate(saved.projected, fixed, own.readers)
            self.active[plan.layer] = active - fixed.ablated[:, own.readers].transpose(0, 1)
        if own.slots.stop > own.slots.start:
            rows = [self.active[each.source][each.rows] for each in own.writes if len(each.rows)]
            self.stack.write_heads(self._node_slots(own), torch.cat(rows) * self.batch.scale)
        if own.error_slot is not None:
            fixed = self.batch.nodes[plan.layer]
            assert isinstance(fixed, FeatureRun)
            self._write(own.error_slot, fixed.error - fixed.ablated_error)
        return saved

    def _mlp(self, plan: LayerPlan, layer: Layer) -> FoldedMlp:
        """A layer's MLP, or the rest of its neurons."""
        nodes = self.model.nodes.get(plan.layer)
        return FoldedMlp.of(layer.mlp, self.dtype, nodes.neurons.chosen if isinstance(nodes, NeuronBlock) else None)

    def _ablated_mlp(self, plan: LayerPlan) -> Float[Tensor, "M D"]:
        fixed = self.batch.nodes.get(plan.layer)
        return fixed.rest if isinstance(fixed, NeuronRun) else self.constants.mlp(plan.layer)

    def _write(self, slot: int, difference: Float[Tensor, "N D"]) -> None:
        difference = difference.to(self.masks.dtype) * self.batch.scale
        self.stack.write(slot, centre(difference) if self.centred else difference)

    def _logits_input(self) -> Float[Tensor, "A D"]:
        final, targets = self.graph.final, self.targets
        base, edges = self._base(final.number), self.masks[:, final.edges]
        mask = (edges[:, self.plan.writers] if self.plan.skips else edges)[self.packing.rows()[targets]]
        self.target_mask = mask  # (a, w)
        x = base if len(base) == 1 else base[targets]
        x = x + torch.einsum("aw,wad->ad", mask, self.stack.at(targets))
        return self.share.at_targets(x, self.mine, len(self.batch.targets))

    # ------------------------------------------------------------------------------------------------------ backward

    @torch.no_grad()
    def backward(self, gradient: Float[Tensor, "A D"], ablated: bool = False) -> Gradients:
        """Walk back from the gradient of what `forward` returned; to the `ablated` values too, if theirs are wanted."""
        self.gradients = torch.zeros_like(self.masks)
        self.stack.start_backward()
        # Σ_r g_r over the readers walked so far: ∂loss/∂z̃_w is this minus ∂loss/∂Δ_w.
        self.passed = gradient.new_zeros(self.packing.n_tokens, self.parts.d_model) if ablated else None
        heads, mlps = [], []
        self._logits_backward(gradient[self.mine])
        group = None
        for plan, layer in zip(reversed(self.plan.layers), reversed(self.parts.layers), strict=True):
            saved, saved_mlp, saved_nodes = self.saved.pop()
            if plan is self._group_layers(plan)[-1]:
                group = None  # the old group must be gone before the new one takes its buffer
                group = self._enter_group(plan)
            if self.passed is not None:
                assert plan.mlp_slot is not None  # nothing is skipped where these gradients are wanted
                mlps.append(self._ablated_gradient(plan.mlp_slot))
            # In a parallel block the MLP does not read its own layer's heads: they are complete before it is walked.
            early = self._heads_gradient(plan, layer, heads) if self.parts.parallel else None
            self._nodes_gradient(plan)  # complete now; what the layer itself reads is added to the stack's hereafter
            mlp_gradient = None if saved_mlp is None else self._mlp_backward(plan, layer, saved_mlp)
            self._nodes_backward(plan, saved_nodes)
            mixed = early if self.parts.parallel else self._heads_gradient(plan, layer, heads)
            self._attention_backward(plan, layer, saved, mixed, mlp_gradient, group)
            if group is not None and plan is self._group_layers(plan)[0]:
                group.give_back()
                for own in group.plans:
                    self._store(own, group.mask_gradients[own.layer])
        total = self.share.total(self.gradients) / self.batch.scale
        if not ablated:
            self.stack.release()
            return Gradients(total, None)
        embeds = [self._ablated_gradient(slot) for slot in range(self.plan.n_live_embeddings)]
        self.stack.release()
        writes = Writes(tuple(embeds), tuple(heads[::-1]), tuple(mlps[::-1]))
        return Gradients(total, mapped(self.share.total, writes))

    def _logits_backward(self, gradient: Float[Tensor, "a D"]) -> None:
        targets = self.targets
        per_target = torch.einsum("ad,wad->aw", gradient, self.stack.at(targets))
        rows, block = self.packing.rows()[targets], self.gradients[:, self.graph.final.edges]
        block.index_put_((rows[:, None], self.plan.writers[None]), per_target, accumulate=True)
        self.stack.add_gradient_at(None if self.plan.plain_end else self.target_mask, gradient, targets)
        if self.passed is not None:
            self.passed.index_add_(0, targets, gradient)

    def _mlp_backward(self, plan: LayerPlan, layer: Layer, saved: MlpRun) -> Float[Tensor, "N D"]:
        """∂loss/∂(the MLP's input), carried on to its own layer's heads; earlier writers get it later."""
        assert plan.mlp_slot is not None
        written = self.stack.gradient(plan.mlp_slot) * self.batch.scale  # (N, D)
        g_x = self._mlp(plan, layer).back(centre(written) if self.centred else written, saved)
        heads, own = self._head_slots(plan, layer), self.gradients[:, plan.mlp_edges][:, plan.attention.n_writers :]
        for start, stop, row in self.packing.segments:
            tokens, kind = slice(start, stop), plan.mlp_kind(row)
            if plan.own.shape[1] and (kind == "mix" or self.plan.all_edges):
                mask = plan.own[row] if kind == "mix" else None
                own[row, plan.heads] += self.stack.mix_heads_backward(heads, mask, g_x[tokens], tokens)
            if kind == "ones":
                self.stack.shared[tokens] += g_x[tokens]
        if self.passed is not None:
            self.passed += g_x
        return g_x

    def _nodes_gradient(self, plan: LayerPlan) -> None:
        """Give ∂loss/∂(what features or neurons wrote to a layer) to those that wrote it."""
        own = plan.nodes
        if own is None or own.slots.stop == own.slots.start:
            return
        written = self.stack.gradient_heads(self._node_slots(own)) * self.batch.scale  # (n, N, g)
        parts = written.split([len(each.rows) for each in own.writes])
        for each, gradient in zip(own.writes, parts, strict=True):
            if len(each.rows):
                active = self.active[each.source]
                waiting = self.waiting.setdefault(each.source, torch.zeros_like(active, dtype=gradient.dtype))
                waiting.index_add_(0, each.rows, gradient)

    def _nodes_backward(self, plan: LayerPlan, saved: ReadRun | None) -> None:
        own = plan.nodes
        if own is None or saved is None:
            return
        nodes, fixed, active = self.model.nodes[plan.layer], self.batch.nodes[plan.layer], self.active.pop(plan.layer)
        written = self.waiting.pop(plan.layer, None)
        written = torch.zeros_like(active) if written is None else written
        gradient = nodes.back(written.to(saved.projected.dtype), saved.projected, fixed, own.readers)
        masks = self._nodes_read(plan, own).backward(saved, gradient, all_edges=self.plan.all_edges)
        own.block.table(self.gradients)[:, own.readers[:, None], self.plan.writers[: own.n_writers]] = masks

    def _heads_gradient(self, plan: LayerPlan, layer: Layer, ablated: list[Tensor]) -> Float[Tensor, "h N v"] | None:
        heads = self._head_slots(plan, layer)
        gradient = self.stack.gradient_heads(heads) * self.batch.scale if len(plan.heads) else None
        if self.passed is not None:
            assert gradient is not None
            passed = torch.einsum("d,hvd->hv", self.passed.sum(0), heads.output.to(self.passed.dtype))
            ablated.append((passed - gradient.sum(1))[None])
        return gradient

    def _attention_backward(
        self,
        plan: LayerPlan,
        layer: Layer,
        saved: ReadRun,
        mixed_gradient: Tensor | None,
        mlp_gradient: Tensor | None,
        group: LayerGroup | None,
    ) -> None:
        gradient = torch.zeros_like(saved.projected)
        if mixed_gradient is not None:
            every = self.share.gathered(mixed_gradient.to(saved.projected.dtype))
            grid = self.share.whole.unpack(every.transpose(0, 1))
            with torch.enable_grad():  # rotary, query and key norms and the softmax are differentiated by autograd
                projected = self.share.gathered(saved.projected).requires_grad_()
                mixed = self._mix(plan, layer, projected)
            with matmul_precision("highest"):
                (gradient,) = torch.autograd.grad(mixed, projected, grid)
            gradient = self.share.take(gradient)
            saved = saved._replace(projected=saved.projected.detach())
        read = self._attention_read(plan, group)
        masks = read.backward(saved, gradient, mlp_gradient, all_edges=self.plan.all_edges, passed=self.passed)
        if group is None:
            self._store(plan, masks)
        else:
            group.mask_gradients[plan.layer] = masks

    def _store(self, plan: LayerPlan, masks: Float[Tensor, "CP m w"]) -> None:
        """Put a layer's mask gradients, complete, in their place."""
        columns = self.plan.writers[: plan.n_writers]
        plan.attention.table(self.gradients)[:, plan.readers[:, None], columns] = masks[:, : len(plan.readers)]
        if masks.shape[1] > len(plan.readers):
            self.gradients[:, plan.mlp_edges][:, columns] = masks[:, -1]

    def _ablated_gradient(self, slot: int) -> Float[Tensor, "1 D"]:
        """∂loss/∂z̃_w = Σ_r g_r − Σ_r m_rw g_r over the readers after w, summed over the tokens, which share z̃_w."""
        assert self.passed is not None
        gradient = (self.passed - self.stack.gradient(slot)).sum(0, keepdim=True)
        return centre(gradient) if self.centred else gradient

    # ------------------------------------------------------------------------------------------------------- helpers

    def _group_layers(self, plan: LayerPlan) -> tuple[LayerPlan, ...]:
        return self.groups.get(plan.layer, (plan,))

    def _enter_group(self, plan: LayerPlan) -> LayerGroup | None:
        """Read together what a layer's group reads of the writers before it; None if the layer stands alone."""
        if plan.layer not in self.groups:
            return None
        group = LayerGroup(self.groups[plan.layer], self.packing, self.stack, self.plan.all_edges)
        group.read([self._base(own.attention.number) for own in group.plans])
        return group

    def _folded_heads(self, layer: int) -> FoldedHeads:
        """A layer's attention readers; rearranged weights are kept unless memory is short, or they would be a second
        copy of all weights in a finer type.
        """
        heads = self.model.heads.get(layer)
        if heads is None:
            attention = self.parts.layers[layer].attention
            heads = FoldedHeads.of(attention, self.graph.copies_per_key, self.dtype)
            if not self.lean and not self.parts.offloaded and attention.output_weight.dtype == self.dtype:
                self.model.heads[layer] = heads
        return heads

    def _attention_read(self, plan: LayerPlan, group: LayerGroup | None) -> BlockRead:
        heads = self._folded_heads(plan.layer)
        heads = heads if len(plan.readers) == plan.attention.n_readers else heads.take(plan.readers)
        return BlockRead(heads, plan, self.packing, self.stack, self._base(plan.attention.number), group)

    def _nodes_read(self, plan: LayerPlan, own: NodePlan) -> BlockRead:
        readers = self.model.nodes[plan.layer].readers.take(own.readers)
        return BlockRead(readers, own, self.packing, self.stack, self._base(plan.mlp.number))

    def _node_slots(self, own: NodePlan) -> HeadSlots:
        layer, writes = own.block.layer, [each for each in own.writes if len(each.rows)]
        outputs = [self.model.nodes[each.source].outputs[layer][each.readers] for each in writes]
        return HeadSlots(own.slots, outputs[0] if len(outputs) == 1 else torch.cat(outputs), None)

    def _head_slots(self, plan: LayerPlan, layer: Layer) -> HeadSlots:
        if self.slots is None or self.slots[0] != plan.layer:  # asked for up to three times while a layer is walked
            output = layer.attention.output
            output = (output if len(plan.heads) == len(output) else output[plan.heads]).to(self.dtype)
            output = centre(output) if self.centred else output
            self.slots = plan.layer, HeadSlots(plan.head_slots, output, self._bias_share(layer))
        return self.slots[1]

    def _bias_share(self, layer: Layer) -> Float[Tensor, " D"] | None:
        bias = layer.attention.output_bias
        if bias is None or not self.model.splits_bias:
            return None
        share = bias.to(self.masks.dtype) / self.parts.n_heads * self.batch.scale
        return centre(share) if self.centred else share

    def _fixed_keys(self, plan: LayerPlan) -> Sequence[tuple[Int[Tensor, " M"], Float[Tensor, "M j k"]] | None]:
        """The keys and values of tokens that are not packed, and their cells in the grid."""
        if self.batch.fixed is None:
            return None, None
        if plan.layer not in self.fixed_keys:
            cell, clean, constants = self.batch.fixed
            base = self._base_at(plan.attention.number, constants, clean)
            heads = self._folded_heads(plan.layer).take(plan.readers[len(plan.heads) :])
            projected = heads.project(base[None])[0].to(heads.weight.dtype).transpose(0, 1)  # (M, 2 j, k)
            self.fixed_keys[plan.layer] = [(cell, each) for each in projected.split(len(plan.keys), 1)]
        return self.fixed_keys[plan.layer]

    def _mix(self, plan: LayerPlan, layer: Layer, projected: Float[Tensor, "n N k"]) -> Float[Tensor, "B h S v"]:
        sizes = [len(plan.heads), len(plan.keys), len(plan.keys)]
        query, *rest = (x.transpose(0, 1) for x in projected.split(sizes))
        query, fixed = self.share.whole.unpack(query), self._fixed_keys(plan)
        key, value = (self.share.whole.unpack(x, at) for x, at in zip(rest, fixed, strict=True))
        if len(plan.keys) != len(plan.heads):  # repeated to the running query heads
            key, value = key[:, plan.key_of_head], value[:, plan.key_of_head]
        if not query.is_cuda:  # there PyTorch's fused attention is five times slower in bfloat16, and under "medium"
            query, key, value = (x.to(self.masks.dtype) for x in (query, key, value))
        with matmul_precision("highest"):
            mixed = mix(layer.attention, query, key, value, self.contexts[plan.layer], plan.heads)
        return mixed.to(projected.dtype)
