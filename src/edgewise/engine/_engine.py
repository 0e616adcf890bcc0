"""The engine: run a model under masks on its edges, and differentiate what comes out with respect to them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._ablation import Ablation
from edgewise.engine._constants import (
    ConstantRun,
    Constants,
    ExampleStore,
    Prompts,
    check_batch,
    check_targets,
    check_tokens,
    corrupted_positions,
    partners,
    what_prunes,
)
from edgewise.engine._execution import Execution, check_choice
from edgewise.engine._executor import Executor
from edgewise.engine._live import FixedTokens, split_tokens
from edgewise.engine._masked_batch import ArrangedModel, MaskedBatch
from edgewise.engine._masked_run import MaskedRun, mask_dtype, only_value
from edgewise.engine._matmul import matmul_precision
from edgewise.engine._packing import Packing, pack
from edgewise.engine._plan import make_plan
from edgewise.engine._probe import ROUND_OFFS, allowed_error, distance, random_prompts, worst
from edgewise.engine._reference import TakenApart, reference_logits
from edgewise.engine._token_share import TokenShare
from edgewise.engine._trees import mapped
from edgewise.engine._writes import AblatedRun, Writes, constant_writes, embeddings, trace_and_sums
from edgewise.engine.features import (
    CleanFeatures,
    FeatureBlock,
    FeatureLayer,
    FeatureRun,
    NeuronBlock,
    NeuronLayer,
    NeuronRun,
    clean_features,
    feature_layers,
    feature_runs,
    kept_errors,
    mlp_streams,
    neuron_activations,
    neuron_layers,
    neuron_run,
    pre_activations,
)
from edgewise.graph import Graph
from edgewise.models import Model, block
from edgewise.runs import check_autocast, tensor_hash
from edgewise.transcoders import Transcoder


class Engine:
    """Runs one model, under one graph and one ablation, with masks on the edges.

    The user's module is only read; after changing its weights make a new engine. A mask of 1 keeps an edge, 0 ablates
    it, and anything between mixes the two.
    """

    def __init__(
        self,
        model: Model,
        graph: Graph | None = None,
        ablation: Ablation | None = None,
        *,
        constants: Writes | None = None,
        transcoders: Transcoder | Sequence[Transcoder] = (),
        execution: Execution | None = None,
        **changes: Any,
    ) -> None:
        """Set up.

        Args:
            model: the model.
            graph: its graph; `model.graph()` if None.
            ablation: what removed edges carry; interchange with the corrupted prompts if None.
            constants: the values for the ablations `mean` (shapes `[1, …]`), `mean-positional` (`[S, …]`, by position)
                and `learned` (`[1, …]`; their gradients are given where they require them). See `mean_writes` and
                `constant_writes`.
            transcoders: of the graph's layers with features, where it has any (see `Model.graph`).
            execution: memory, precision and the like; the defaults if None.
            **changes: other values of single fields of `Execution`, such as `memory="lean"`.

        Raises:
            InputError: the model is not as it was loaded; the ablation lacks constants, or takes none; an option is
                none of `Execution`'s; `dtype` is not the model's; or transcoders are missing or do not fit.
        """
        model.check()
        self.model: Model = model
        self._weights = model.weights_state  # of which some are kept rearranged
        self.graph: Graph = graph or model.graph()
        self.ablation: Ablation = ablation or Ablation()
        self.execution: Execution = (execution or Execution()).changed(changes)
        if self.execution.dtype not in (None, model.dtype):
            raise InputError(f"dtype={self.execution.dtype}: the model is in {model.dtype}; load it in the type wanted")
        spec = self.graph.spec
        apart, cross = (dict(spec.features), dict(spec.neurons)), dict(spec.cross_layer)
        own = model.graph(spec.embeddings, spec.kv, (), *apart, cross_layer=cross, error=spec.error)
        if other := replace(spec, spans=()).differences(own.spec):
            raise InputError(f"graph: it is not the model's ({other}); use model.graph()")
        self._plain = own  # what runs: position groups are rows of masks
        self.constants: Writes | None = self._checked_constants(constants)
        self._fixed = ConstantRun(model.parts, own, self.ablation)
        known = () if self.constants is None or model.device.type == "meta" else self.constants.tensors()
        self.constants_hash: str = tensor_hash(*known)  # as they are now: a run, whose checkpoint has it, may move them
        self.features: dict[int, FeatureLayer] = feature_layers(model, own, self.ablation.kind, transcoders)
        self.neurons: dict[int, NeuronLayer] = neuron_layers(model, own, self.ablation.kind)
        self._transcoders = transcoders
        dtype = self.execution.dtype or mask_dtype(model)
        nodes: dict[int, FeatureBlock | NeuronBlock] = {}
        nodes |= {layer: FeatureBlock.of(model.parts, each) for layer, each in self.features.items()}
        nodes |= {layer: NeuronBlock.of(model.parts, each, dtype) for layer, each in self.neurons.items()}
        self._arranged = ArrangedModel(model.parts, own, self.execution, self.ablation.splits_bias, nodes)
        # Hidden states take D numbers per token, constants some four times D for every layer.
        n_bytes = self.execution.cache_bytes
        for_features = n_bytes // 4 if spec.features else 0
        self._hidden = ExampleStore(self._full_hidden, n_bytes // 16)
        self._clean = ExampleStore(self._clean_features, for_features)
        self._store = ExampleStore(self._ablated, n_bytes - n_bytes // 16 - for_features)
        if spec.apart:
            self._check_nodes()

    def _checked_constants(self, constants: Writes | None) -> Writes | None:
        takes = self.ablation.takes_constants
        if takes != (constants is not None):
            want = "pass its constants, as `load_constants` reads them" if takes else "takes no constants"
            raise InputError(f"ablation {self.ablation.kind!r}: {want}")
        if self.ablation.kind == "zero":
            constants = constant_writes(self.model.parts, self._plain)
        if constants is not None:
            constants.check(self.model.parts, self._plain, self.ablation)
        return constants

    @torch.no_grad()
    def _check_nodes(self) -> None:
        """Refuse features or neurons with which all masks 1 do not give the full model or, under interchange, all masks
        0 do not give the corrupted run, on random prompts: as where what features write is so large that rounding
        drowns the MLP's own output. What kept or corrupted errors make of either end is held against nothing.
        """
        if self.model.device.type == "meta":
            return
        asked, self.execution = self.execution, replace(self.execution, matmul="highest")
        batch, error = random_prompts(self.model), self.graph.spec.error
        full, errors = self.full(batch), []
        if error != "corrupted":
            errors.append(distance(self.run(batch, torch.ones(self.graph.n_edges)), full))
        if error != "kept" and self.ablation.kind == "interchange" and self.graph.n_embeddings:
            errors.append(distance(self.run(batch, torch.zeros(self.graph.n_edges)), self.full(batch, "corrupted")))
        self.execution, allowed = asked, allowed_error(self.model) * float(full.abs().max())
        if errors and not worst(errors) <= allowed:  # the module's own round-off may be more, which `check` allows
            whole = Engine(self.model, self.model.graph(self.graph.spec.embeddings, self.graph.spec.kv))
            allowed = max(allowed, ROUND_OFFS * distance(whole.run(batch, torch.ones(whole.graph.n_edges)), full))
        if errors and not worst(errors) <= allowed:
            why = f"; features may write too much for {self.model.dtype}" if self.features else ""
            raise InputError(
                f"{self.graph.spec.apart}: with them the engine is off the model by {worst(errors):.1e}, which must be "
                f"at most {allowed:.1e}{why}"
            )

    @staticmethod
    def of(
        model: "Model | Engine",
        graph: Graph | None = None,
        ablation: Ablation | None = None,
        transcoders: Transcoder | Sequence[Transcoder] = (),
    ) -> "Engine":
        """An engine for a model, or the engine itself, with its own transcoders, where a caller may give either.

        Raises:
            InputError: an engine was given, but of another graph or ablation than asked for, or its model has changed.
        """
        if isinstance(model, Model):
            return Engine(model, graph, ablation, transcoders=transcoders)
        model.model.check(model._weights)
        if graph is not None and (other := model.graph.spec.differences(graph.spec)):
            raise InputError(f"engine: its graph is another than the one to run ({other}); give one of that graph")
        if ablation is not None and ablation != model.ablation:
            raise InputError(f"engine: its ablation is {model.ablation}; expected {ablation}")
        return model

    def under(self, ablation: Ablation) -> "Engine":
        """An engine of the same model, graph and transcoders under an ablation that takes no constants."""
        choices = {"ranks": self.execution.ranks, "share": self.execution.share}
        return Engine(self.model, self.graph, ablation, transcoders=self._transcoders, **choices)

    @cached_property
    def transcoder_identity(self) -> dict[str, dict[str, Any]]:
        """What a saved circuit says of the transcoders: for each layer with features, a hash of the weights, activation
        kind, site, and whether special tokens are left out.
        """
        return {str(layer): each.identity() for layer, each in self.features.items()}

    @torch.no_grad()
    def prepare(self, batches: Iterable[Prompts], *, full: bool = True, beside: bool = False) -> None:
        """Compute what depends on the examples alone (ablated values, the full model's predictions) and keep it, in
        place of what was kept before or beside it.

        Without it, that is computed anew for every other batch. What does not fit into `cache_bytes` is left out.

        Args:
            batches: the examples; in what batches they come decides the last bits.
            full: whether the full model's predictions will be asked for.
            beside: keep what was kept before; an example that is kept already costs nothing.
        """
        if not beside:
            for store in (self._hidden, self._store, self._clean):
                store.clear()
        # What still fits.
        hidden, clean, ablated = full, bool(self.graph.spec.features), self.ablation.kind == "interchange"
        for batch in batches:
            check_batch(batch, self.ablation.kind, self.model)
            hidden = hidden and self._hidden.pin(batch.clean)
            clean = clean and self._clean.pin(batch.clean)
            ablated = ablated and self._store.pin(batch.corrupted)
            if not (hidden or clean or ablated):
                return

    @torch.no_grad()
    def full(self, batch: Prompts, which: Literal["clean", "corrupted"] = "clean") -> Float[Tensor, "A V"]:
        """The full model's logits at the batch's targets, on the clean or on the corrupted prompts: the user's own
        module, no masks. Raises `InputError` for a batch that it cannot run.
        """
        check_autocast(self.model.device)
        check_choice("which", which, ("clean", "corrupted"))
        check_targets(batch.clean, batch.row, batch.position)
        tokens, position = batch.clean, batch.position
        if which == "corrupted":
            tokens, position = batch.corrupted, corrupted_positions(batch)
            check_targets(tokens, batch.row, position)
        check_tokens(tokens, self.model)
        hidden = torch.cat(self._hidden.lookup(tokens))
        return self.model.parts.unembed(hidden[pack(tokens).where(batch.row, position)])

    def run(
        self,
        batch: Prompts,
        mask: Shaped[Tensor, " E"] | Shaped[Tensor, "C P E"],
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
            InputError: the mask has the wrong size, or under interchange a pair's prompts differ in length unaligned.
        """
        check_autocast(self.model.device)
        check_choice("gradients", gradients, ("fractional", "all"))
        single, masks = mask.ndim == 1, self._by_group(mask)
        n_copies, n_groups, _ = masks.shape
        if n_groups > 1 and batch.span_id is None:
            raise InputError(
                f"mask: it has {n_groups} position groups, and the batch has no span_id to say which token is in which"
            )
        packing = pack(batch.clean, n_copies, batch.span_id, n_groups)
        check_batch(batch, self.ablation.kind, self.model)
        terms, fixed = embeddings(self.model.parts, self._plain, packing), None
        if skip and self.execution.path == "fast":
            run, seen = split_tokens(self.model.parts, self.ablation.kind, batch, packing)
            if bool(seen.any()):
                fixed = self._fixed_tokens(batch, packing.only(seen), terms)
            packing = packing.only(run)
        share = TokenShare(packing, self.execution.token_ranks)
        packing = share.own
        constants = self.constants_of(batch, packing)
        nodes = self._node_runs(batch, packing, constants)
        masked = MaskedBatch(
            share,
            self._rows(masks, gradients),
            packing.where(batch.row, batch.position),
            tuple(term[packing.example_token] for term in terms),
            constants,
            nodes,
            kept_errors(self._plain, nodes),
            fixed,
        )
        if self.execution.path == "reference":
            logits = self._reference(masked)
        else:
            final = self._execute(masked, what_prunes(self.ablation.kind, batch), gradients == "all", skip)
            logits = self.model.parts.unembed(block.normed(self.model.parts.final_norm, final))
        return logits if single else logits.view(n_copies, -1, logits.shape[-1])

    def _fixed_tokens(self, batch: Prompts, packing: Packing, terms: tuple[Float[Tensor, "N D"], ...]) -> FixedTokens:
        clean = torch.stack([term[packing.example_token] for term in terms]).sum(0)
        return FixedTokens(packing.cell, clean, self.constants_of(batch, packing))

    def _reference(self, masked: MaskedBatch) -> Float[Tensor, "A V"]:
        return reference_logits(
            self.model.parts,
            self._plain,
            self.ablation,
            masked.share.own,
            masked.masks,
            masked.constants.writes(),
            masked.targets,
            TakenApart(self.features, masked.nodes),
        )

    def _execute(self, masked: MaskedBatch, prunes: str, all_edges: bool, skip: bool) -> Float[Tensor, "A D"]:
        """The final norm's inputs at the targets; `prunes` as `Graph.prune` takes an ablation."""
        masks, ablated = masked.masks, () if self.constants is None else self.constants.tensors()
        learned = any(x.requires_grad for x in ablated)
        keep = torch.is_grad_enabled() and (masks.requires_grad or learned)
        scale = 1.0 if learned or not skip else only_value(masks)
        masked = masked._replace(masks=masks.detach() if scale == 1 else torch.ones_like(masks), scale=scale)
        plan = make_plan(
            self._plain,
            masked.masks,
            prunes,
            all_edges=all_edges or scale != 1,
            skip=skip and not all_edges and not learned,
            share=skip,
        )
        executor = Executor(self._arranged, masked, plan)
        return MaskedRun.apply(executor, self.execution.matmul, keep, masks, *ablated)  # pyright: ignore[reportReturnType] (untyped)

    def _by_group(self, mask: Tensor) -> Shaped[Tensor, "C P n"]:
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

    def _rows(self, mask: Shaped[Tensor, "C P n"], gradients: str) -> Float[Tensor, "CP n"]:
        rows = mask.reshape(-1, mask.shape[-1]).to(self.model.device, mask_dtype(self.model))
        return torch.where((rows > 0) & (rows < 1), rows, rows.detach()) if gradients == "fractional" else rows

    @torch.no_grad()
    def _full_hidden(self, packing: Packing) -> Float[Tensor, "N D"]:
        """What the full model unembeds, per token in plain order."""
        with matmul_precision(self.execution.matmul):
            hidden = self.model.parts.hidden(packing.ids, packing.real, packing.positions)  # (B, S, D)
        return packing.pack(hidden[:, None])[:, 0]

    @torch.no_grad()
    def _ablated(self, packing: Packing) -> AblatedRun:
        """What the writers of the full model write on corrupted prompts, and what follows from it."""
        with matmul_precision(self.execution.matmul):
            writes, base = trace_and_sums(self.model.parts, self._plain, self.ablation, packing)
            streams = mlp_streams(self._plain, writes, base)
            nodes = pre_activations(self.model, self.features, streams)
            nodes |= neuron_activations(self.model, self.neurons, streams)
        return AblatedRun(writes, base, nodes)

    @torch.no_grad()
    def _clean_features(self, packing: Packing) -> dict[int, CleanFeatures]:
        with matmul_precision(self.execution.matmul):
            writes, base = trace_and_sums(self.model.parts, self._plain, Ablation(), packing)
            streams = mlp_streams(self._plain, writes, base)
            return clean_features(self.model, self._plain, self.features, writes, streams, packing)

    def _node_runs(self, batch: Prompts, packing: Packing, constants: Constants) -> dict[int, FeatureRun | NeuronRun]:
        """What is fixed of the layers with features or neurons."""
        interchange = self.ablation.kind == "interchange"
        found: dict[int, FeatureRun | NeuronRun] = {
            layer: neuron_run(each, constants.nodes(layer) if interchange else None, constants.mlp(layer))
            for layer, each in self.neurons.items()
        }
        if self._plain.spec.features:
            runs = self._clean.lookup(batch.clean)
            clean = mapped(lambda *column: torch.cat(column)[packing.example_token], *runs)
            corrupted = {layer: constants.nodes(layer) for layer in self.features} if interchange else None
            ablated = {layer: constants.mlp(layer) for layer in clean}
            found |= feature_runs(self.features, clean, corrupted, ablated)
        return found

    def constants_of(self, batch: Prompts, packing: Packing) -> Constants:
        """What ablated edges carry at each packed token of a batch that has been checked."""
        if self.ablation.kind == "interchange":
            found = Constants(self._store.lookup(batch.corrupted))
            if batch.align is not None:
                return found.at(partners(batch.clean, batch.corrupted, batch.align)[packing.example_token])
            return found if packing.is_plain else found.at(packing.example_token)
        assert self.constants is not None
        return Constants([self._fixed.of(self.constants, packing.grid[1])]).at(packing.token_positions())
