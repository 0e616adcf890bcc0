"""The engine: run a model under masks on its edges, and differentiate what comes out with respect to them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._ablation import Ablation
from edgewise.engine._constants import (
    Constants,
    ExampleStore,
    Prompts,
    check_length,
    check_pairs,
    check_targets,
    partners,
)
from edgewise.engine._executor import Executor
from edgewise.engine._matmul import MATMULS, Matmul, matmul_precision
from edgewise.engine._packing import Packing, pack
from edgewise.engine._plan import make_plan
from edgewise.engine._reference import reference_logits
from edgewise.engine._stack import Workspace
from edgewise.engine._writes import Writes, base_sums, constant_writes, embeddings, trace
from edgewise.engine.features._block import FeatureBlock
from edgewise.engine.features._layers import (
    FeatureRun,
    clean_tensors,
    corrupted_tensors,
    feature_layers,
    feature_run,
    mlp_streams,
)
from edgewise.graph import Graph
from edgewise.models import Model, block
from edgewise.transcoders import Transcoder

CACHE_BYTES = 1 << 30
"""How much the constants of the examples may take before they are computed again each time."""


class Engine:
    """Runs one model, under one graph and one ablation, with masks on the edges.

    The user's module is only read. Some of its weights are kept rearranged, so make a new engine after changing them.
    A mask of 1 keeps an edge, 0 ablates it, and anything between mixes the two.
    """

    def __init__(
        self,
        model: Model,
        graph: Graph | None = None,
        ablation: Ablation | None = None,
        *,
        constants: Writes | None = None,
        cache_bytes: int = CACHE_BYTES,
        transcoders: Transcoder | Sequence[Transcoder] = (),
        path: Literal["fast", "reference"] = "fast",
        memory: Literal["default", "lean"] = "default",
        dtype: torch.dtype | None = None,
        matmul: Matmul = "highest",
    ) -> None:
        """Set up.

        Args:
            model: the model.
            graph: its graph; `model.graph()` if None.
            ablation: what removed edges carry; interchange with the corrupted prompts if None.
            constants: the values for the ablations `mean` (shapes `[1, …]`), `mean-positional` (`[S, …]`, by position)
                and `learned` (`[1, …]`; their gradients are given where they require them). See `mean_writes` and
                `constant_writes`.
            cache_bytes: how much memory `prepare` may fill with what depends on the examples alone.
            transcoders: of the graph's layers with features, where it has any (see `Model.graph`).
            path: `reference` runs the slow path that the fast one is tested against.
            memory: `lean` keeps heads at their own width and makes again what is cheap to make: the same numbers (up to
                rounding) in a fraction of the memory, for more time; see docs/performance.md.
            dtype: the type of the stack and of products with the weights, such as `torch.bfloat16` for a model in it;
                masks, sums and gradients stay in float32. None: that of the masks, float32 or the model's float64.
            matmul: what PyTorch may do to products of float32 matrices, as in `torch.set_float32_matmul_precision`, in
                masked runs and in the plain ones that give ablated values and the full model's predictions (attention
                and unembedding left out). `medium` lets it use bfloat16 where the processor multiplies it faster, which
                is good enough to learn masks by and not to judge them; see docs/performance.md.

        Raises:
            InputError: the ablation needs constants and there are none, or the other way round; `memory`, `dtype` or
                `matmul` is not one of those; or a transcoder is missing, does not fit, or cannot be taken apart.
        """
        self.model, self.graph, self.ablation = model, graph or model.graph(), ablation or Ablation()
        if memory not in ("default", "lean"):
            raise InputError(f"memory={memory!r}: choose 'default' or 'lean'")
        if dtype not in (None, model.dtype):
            raise InputError(f"dtype={dtype}: the model is in {model.dtype}; load it in the type wanted")
        if matmul not in MATMULS:
            raise InputError(f"matmul={matmul!r}: choose {', '.join(MATMULS[:-1])} or {MATMULS[-1]}")
        self.path, self.memory, self.dtype, self.cache_bytes = path, memory, dtype, cache_bytes
        self.matmul: Matmul = "highest"  # until features are checked
        spec = self.graph.spec
        own = model.graph(spec.embeddings, spec.kv, features=dict(spec.features))
        if Graph(replace(spec, spans=())) != own:
            raise InputError(f"graph: it is {self.graph.spec}, but the model's is {own.spec}; use model.graph()")
        self._plain = own  # what runs: position groups are rows of masks
        needs = self.ablation.kind not in ("interchange", "zero")
        if needs != (constants is not None):
            raise InputError(
                f"ablation {self.ablation.kind!r}: " + ("pass its constants" if needs else "takes no constants")
            )
        if self.ablation.kind == "zero":
            constants = constant_writes(model.parts, own)
        if constants is not None:
            constants.check(model.parts, own)
        self.constants = constants
        # Hidden states take D numbers per token, constants some four times D for every layer.
        features_bytes = cache_bytes // 4 if spec.features else 0
        self._store = ExampleStore(cache_bytes - cache_bytes // 16 - features_bytes)
        self._reads: dict[int, block.FoldedHeads] = {}
        self._workspace = Workspace()
        self._hidden = ExampleStore(cache_bytes // 16)
        self.features = feature_layers(model, own, self.ablation.kind, transcoders)
        self._transcoders = transcoders
        self._clean = ExampleStore(features_bytes)
        self._blocks = {layer: FeatureBlock.of(model.parts, each) for layer, each in self.features.items()}
        if self.features:
            from edgewise.engine._check import require_features  # which makes engines itself

            require_features(self)
        self.matmul = matmul

    @staticmethod
    def of(model: "Model | Engine", graph: Graph | None = None, ablation: Ablation | None = None) -> "Engine":
        """An engine for a model, or the engine itself, where a caller may give either.

        Raises:
            InputError: an engine was given, but of another graph or ablation than asked for.
        """
        if isinstance(model, Model):
            return Engine(model, graph, ablation)
        if graph is not None and graph != model.graph:
            raise InputError(f"engine: its graph is {model.graph.spec}; expected {graph.spec}")
        if ablation is not None and ablation != model.ablation:
            raise InputError(f"engine: its ablation is {model.ablation}; expected {ablation}")
        return model

    def under(self, ablation: Ablation) -> "Engine":
        """An engine of the same model, graph and transcoders under an ablation that takes no constants."""
        return Engine(self.model, self.graph, ablation, transcoders=self._transcoders)

    @cached_property
    def transcoder_identity(self) -> dict[str, dict[str, Any]]:
        """What a saved circuit says of the transcoders: for each layer with features, a hash of the weights, activation
        kind, site, and whether special tokens are left out.
        """
        return {str(layer): each.identity() for layer, each in self.features.items()}

    @torch.no_grad()
    def prepare(self, batches: Iterable[Prompts], *, full: bool = True) -> None:
        """Compute what depends on the examples alone (ablated values, the full model's predictions) and keep it, in
        place of what was kept before.

        Without it, that is computed anew for every other batch. What does not fit into `cache_bytes` is left out.

        Args:
            batches: the examples; in what batches they come decides the last bits.
            full: whether the full model's predictions will be asked for.
        """
        self._hidden.clear()
        self._store.clear()
        self._clean.clear()
        hidden, clean, ablated = full, bool(self.features), self.ablation.kind == "interchange"  # what still fits
        for batch in batches:
            check_length(batch.clean, self.model.parts.n_positions)
            if self.ablation.kind == "interchange":
                check_pairs(batch.clean, batch.corrupted, batch.align)
            hidden = hidden and self._hidden.pin(batch.clean, self._full_hidden)
            clean = clean and self._clean.pin(batch.clean, self._clean_features)
            ablated = ablated and self._store.pin(batch.corrupted, self._ablated)
            if not (hidden or clean or ablated):
                return

    @torch.no_grad()
    def full(self, batch: Prompts, which: Literal["clean", "corrupted"] = "clean") -> Float[Tensor, "A V"]:
        """The full model's logits at the batch's targets, on the clean or on the corrupted prompts: the user's own
        module, no masks.
        """
        tokens, position = batch.clean, batch.position
        if which == "corrupted":
            tokens = batch.corrupted
            position = position if batch.align is None else batch.align[batch.row, position]
        check_targets(tokens, batch.row, position)
        check_length(tokens, self.model.parts.n_positions)
        hidden = torch.cat([each for (each,) in self._hidden.lookup(tokens, self._full_hidden)])
        return self.model.parts.unembed(hidden[pack(tokens).where(batch.row, position)])

    def run(
        self,
        batch: Prompts,
        mask: Float[Tensor, " E"] | Float[Tensor, "C P E"],
        *,
        gradients: Literal["fractional", "all"] = "fractional",
        skip: bool = True,
    ) -> Float[Tensor, "A V"] | Float[Tensor, "C A V"]:
        """Run the circuits that the masks stand for.

        Args:
            batch: paired prompts and the targets whose predictions are wanted.
            mask: one number in [0, 1] per edge, `[E]`; or `[C, P, E]` for C circuits at once, each with P position
                groups (the groups of the tokens are then `batch.span_id`).
            gradients: `fractional` gives gradients only where 0 < mask < 1, which is where a clamped mask has any;
                `all` gives them for every edge, as attribution needs, and costs more where masks are hard.
            skip: leave out what cannot matter and share what is equal; False runs everything (the numbers are the
                same).

        Returns:
            Logits at the targets, `[A, V]`, or `[C, A, V]` for a mask with three axes; differentiable in `mask` and in
            learned constants.

        Raises:
            InputError: the mask has the wrong size, or the prompts of a pair differ in length.
        """
        single, mask = mask.ndim == 1, self._by_group(mask)
        n_copies, n_groups, _ = mask.shape
        masks = self._rows(mask)
        if gradients == "fractional":
            masks = torch.where((masks > 0) & (masks < 1), masks, masks.detach())
        if n_groups > 1 and batch.span_id is None:
            raise InputError(
                f"mask: it has {n_groups} position groups, and the batch has no span_id to say which token is in which"
            )
        packing = pack(batch.clean, n_copies, batch.span_id, n_groups)
        check_targets(batch.clean, batch.row, batch.position)
        check_length(batch.clean, self.model.parts.n_positions)
        targets = packing.where(batch.row, batch.position)
        terms = embeddings(self.model.parts, self._plain, packing)
        clean = tuple(term[packing.example_token] for term in terms)
        constants = self.constants_of(batch, packing)
        features = self._feature_runs(batch, packing, constants)
        if self.path == "reference":
            logits = reference_logits(
                self.model.parts,
                self._plain,
                self.ablation,
                packing,
                masks,
                constants.writes(),
                targets,
                {layer: (each, features[layer]) for layer, each in self.features.items()},
            )
        else:
            final = self._execute(packing, masks, clean, constants, features, targets, gradients == "all", skip)
            logits = self.model.parts.unembed(block.normed(self.model.parts.final_norm, final))
        return logits if single else logits.view(n_copies, -1, logits.shape[-1])

    def _execute(
        self,
        packing: Packing,
        masks: Float[Tensor, "CP E"],
        clean: tuple[Tensor, ...],
        constants: Constants,
        features: dict[int, FeatureRun],
        targets: Int[Tensor, " A"],
        all_edges: bool,
        skip: bool,
    ) -> Float[Tensor, "A D"]:
        ablated = () if self.constants is None else self.constants.tensors()
        learned = any(x.requires_grad for x in ablated)
        plan = make_plan(
            self._plain,
            masks,
            self.ablation.kind,
            all_edges=all_edges,
            skip=skip and not all_edges and not learned,
            share=skip,
        )
        executor = Executor(
            self.model.parts,
            self._plain,
            packing,
            masks.detach(),
            plan,
            clean,
            constants,
            self._reads,
            self._workspace,
            self.ablation.splits_bias,
            self.memory == "lean",
            self.dtype,
            {layer: (own, features[layer]) for layer, own in self._blocks.items()},
        )
        keep = torch.is_grad_enabled() and (masks.requires_grad or learned)
        return _Run.apply(executor, self.matmul, targets, keep, masks, *ablated)  # pyright: ignore[reportReturnType] (untyped)

    def _by_group(self, mask: Tensor) -> Float[Tensor, "C P n"]:
        """A mask with a row for each circuit and position group."""
        graph, shape = self.graph, tuple(mask.shape)
        fits = shape[-1:] == (graph.n_edges,) and (mask.ndim == 1 or (mask.ndim == 3 and shape[1] == 1))
        if not fits and (mask.ndim != 3 or shape[-1] != graph.n_plain):
            positions = (
                f" (E = {graph.n_plain} for each of {graph.n_groups} position groups)" if graph.spec.spans else ""
            )
            raise InputError(f"mask: shape {shape}; expected [E] or [C, P, E] with E = {graph.n_edges}{positions}")
        if not mask.numel():
            raise InputError(f"mask: shape {shape} holds no circuit; give at least one")
        return mask.reshape(-1, graph.n_groups, graph.n_plain) if fits else mask

    def _rows(self, mask: Float[Tensor, "C P n"]) -> Float[Tensor, "CP n"]:
        dtype = self.model.dtype if self.model.dtype in (torch.float32, torch.float64) else torch.float32
        return mask.reshape(-1, mask.shape[-1]).to(self.model.device, dtype)

    def _full_hidden(self, packing: Packing) -> tuple[Tensor, ...]:
        """What the full model unembeds, per token in plain order."""
        with matmul_precision(self.matmul):
            hidden = self.model.parts.hidden(packing.ids, packing.real, packing.positions)  # (B, S, D)
        return (packing.pack(hidden[:, None])[:, 0],)

    @torch.no_grad()
    def _ablated(self, packing: Packing) -> tuple[Tensor, ...]:
        """What the writers of the full model write on corrupted prompts, and its sums, as `Constants` takes them."""
        with matmul_precision(self.matmul):
            writes = trace(self.model.parts, self._plain, packing)
            base = base_sums(self.model.parts, self._plain, self.ablation, writes)
            features = corrupted_tensors(self.model, self.features, mlp_streams(self._plain, writes, base))
        return (*writes.tensors(), *base, *features)

    @torch.no_grad()
    def _clean_features(self, packing: Packing) -> tuple[Tensor, ...]:
        with matmul_precision(self.matmul):
            writes = trace(self.model.parts, self._plain, packing)
            base = base_sums(self.model.parts, self._plain, Ablation(), writes)
            return clean_tensors(self.model, self.features, writes, mlp_streams(self._plain, writes, base), packing)

    def _feature_runs(self, batch: Prompts, packing: Packing, constants: Constants) -> dict[int, FeatureRun]:
        """What is fixed of the layers with features."""
        if not self.features:
            return {}
        found = self._clean.lookup(batch.clean, self._clean_features)
        columns = [torch.cat(column)[packing.example_token] for column in zip(*found, strict=True)]
        runs = {}
        for number, (layer, features) in enumerate(self.features.items()):
            corrupted = constants.features(number) if self.ablation.kind == "interchange" else None
            error, bound = columns[2 * number : 2 * number + 2]
            runs[layer] = feature_run(features, error, bound, corrupted, constants.mlp(layer))
        return runs

    def constants_of(self, batch: Prompts, packing: Packing) -> Constants:
        """What ablated edges carry at each packed token."""
        parts, graph = self.model.parts, self._plain
        if self.ablation.kind == "interchange":
            check_pairs(batch.clean, batch.corrupted, batch.align)
            found = self._store.lookup(batch.corrupted, self._ablated)
            found = Constants(found, len(parts.layers), n_features=len(self.features))
            if batch.align is not None:
                return found.at(partners(batch.clean, batch.corrupted, batch.align)[packing.example_token])
            return found if packing.is_plain else found.at(packing.example_token)
        assert self.constants is not None
        with torch.no_grad():
            base = base_sums(parts, graph, self.ablation, self.constants)
        if 1 < len(base[0]) < packing.grid[1]:
            raise InputError(
                f"mean-positional: a prompt has {packing.grid[1]} tokens and there are means for {len(base[0])}; "
                "average over prompts that are as long"
            )
        joined = (*self.constants.tensors(), *base)
        return Constants([joined], len(parts.layers)).at(packing.token_positions())


class _Run(torch.autograd.Function):
    """The executor as one differentiable operation of the masks and of the ablated values."""

    @staticmethod
    def forward(
        ctx, executor: Executor, matmul: Matmul, targets: Tensor, keep: bool, masks: Tensor, *ablated: Tensor
    ) -> Tensor:
        with matmul_precision(matmul):
            final = executor.forward(targets, keep)
        if keep:
            ctx.executor, ctx.matmul = executor, matmul
        return final

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] (decorated)
        (gradient,) = grad_outputs
        executor, ctx.executor = ctx.executor, None
        if executor is None:
            raise RuntimeError(
                "a masked run can be differentiated once, since its stacks are freed on the way; run it again"
            )
        needs = ctx.needs_input_grad[5:]  # of the ablated values
        with matmul_precision(ctx.matmul):
            gradients = executor.backward(gradient, ablated=any(needs))
        rest = gradients.ablated.tensors() if gradients.ablated is not None else (None,) * len(needs)
        return None, None, None, None, gradients.masks, *rest
