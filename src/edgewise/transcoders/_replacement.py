"""A model whose MLPs' outputs come from transcoders: the user's own module, changed within a context alone."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.transcoders import (
    Codes,
    MlpModules,
    Transcoder,
    centre,
    changed_forwards,
    check_device,
    check_transcoder,
    input_at,
    modules_of,
    special_tokens,
)

Substitute = Callable[[Tensor | None, Tensor, Callable[[Tensor], Tensor]], Tensor]
"""From the norm's input (None without a norm), the MLP's input and the MLP itself to what takes its output's place."""

Edit = Callable[[Transcoder, Codes], Codes]
"""Changes the features of one transcoder at the tokens of a forward, in the order of the flattened batch."""


class Replacement:
    """A model with the MLPs of some layers replaced by transcoders, or by cross-layer sets of them.

        with ew.transcoders.Replacement(model, transcoders) as module:
            module.generate(...)  # the user's own module; outside of the context it is as before

    A special token, and the first of a sequence, keeps the MLP's own output in those layers whose transcoders were
    trained without them.
    """

    def __init__(
        self,
        model: Model,
        transcoders: Transcoder | Sequence[Transcoder],
        *,
        errors: bool = False,
        exclude_special: bool | None = None,
        edit: Edit | None = None,
    ) -> None:
        """Set up; nothing is changed yet.

        Args:
            model: the model.
            transcoders: at most one per layer, or a whole cross-layer set; autoencoders of `mlp_out` too.
            errors: add to each what it gets wrong, token by token: the output is then exactly the model's, and an edit
                changes it by what the edited features write.
            exclude_special: whether special and first tokens keep the MLP's own output; None: in each layer as in
                training, and where that is not known, no.
            edit: changes features on their way; for interventions.

        Raises:
            InputError: a site or width is not the model's, two transcoders are of one layer, or a cross-layer set has
                gaps or was trained without special tokens in part.
        """
        self.model: Model = model
        self.errors: bool = errors
        self.edit: Edit | None = edit
        given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
        self.transcoders: dict[int, Transcoder] = {}
        for each in given:
            check_transcoder(model, each)
            check_device(model, each)
            if any(site.kind != "mlp_out" for site in each.spec.writes):
                raise InputError(f"transcoder: writes {each.spec.writes[0]}; only MLP outputs can be replaced")
            layer = each.spec.writes[0].layer
            if layer in self.transcoders or each.spec.reads.layer != layer:
                raise InputError(f"layer {layer}: there must be one transcoder, which reads that same layer")
            self.transcoders[layer] = each
        for each in given:
            if gaps := [site.layer for site in each.spec.writes if site.layer not in self.transcoders]:
                raise InputError(f"{each.spec.reads}: also writes to layer {gaps[0]}, which has none in the set")
        self.exclude_special: bool | Collection[int] = excluding(given) if exclude_special is None else exclude_special
        """Whether special and first tokens keep the MLP's own output, or the layers in which they do."""
        mixed = 0 < len(excluding(given)) < len(given)
        if exclude_special is None and mixed and any(len(each.spec.writes) > 1 for each in given):
            raise InputError(  # what is off in one layer would still write in the next
                "cross-layer set: some of it was trained without special tokens and some with them; give "
                "exclude_special=True or False"
            )
        self._pending: dict[int, Tensor] = {}
        self._entered = 0
        self._stack = ExitStack()

    def __enter__(self) -> nn.Module:
        """Replace; returns the user's module. Entered again within its own context, it changes nothing more."""
        if not self._entered:
            substitutes = {layer: self._substitute(layer) for layer in self.transcoders}
            self._stack.enter_context(substituted(self.model, substitutes, exclude_special=self.exclude_special))
        self._entered += 1
        return self.model.module

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the module, when the outermost context is left."""
        self._entered -= 1
        if not self._entered:
            self._stack.close()
            self._pending.clear()

    def logits(
        self, ids: Int[Tensor, "B S"], attention_mask: Shaped[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S V"]:
        """The replaced model's logits, in a context of their own."""
        mask = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask
        with self as module:
            return module(input_ids=ids, attention_mask=mask).logits

    def _substitute(self, layer: int) -> Substitute:
        transcoder, parts = self.transcoders[layer], self.model.parts.layers[layer]
        spec = transcoder.spec

        def substitute(residual: Tensor | None, given: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
            if layer == min(self.transcoders):
                self._pending.clear()
            own = mlp(given) if self.errors or spec.is_autoencoder else None
            read = own if spec.is_autoencoder else input_at(parts, spec.reads.kind, residual, given)
            assert read is not None
            x = centre(read, spec.reads).flatten(0, -2).to(transcoder.W_enc.dtype)  # (N, D)
            before = Codes.of(transcoder.encode(x)) if torch.is_grad_enabled() else transcoder.codes(x)
            after = before
            if self.edit is not None:  # of a copy: it may change it in place
                after = self.edit(
                    transcoder, before._replace(feature=before.feature.clone(), value=before.value.clone())
                )
            written = transcoder.decode(after, x)  # (N, M, D)
            if self.errors:  # only what the edit changes, so that without one the output is the model's to the bit
                written = written - transcoder.decode(before, x) if after is not before else torch.zeros_like(written)
            for site, value in zip(spec.writes, written.unbind(1), strict=True):
                self._pending[site.layer] = self._pending[site.layer] + value if site.layer in self._pending else value
            y = self._pending.pop(layer).view_as(given).to(given.dtype)
            return y if not self.errors or own is None else own + y

        return substitute


def excluding(transcoders: Iterable[Transcoder]) -> frozenset[int]:
    """The layers whose transcoders were made without special and first tokens, for `substituted`."""
    return frozenset(each.spec.writes[0].layer for each in transcoders if each.spec.exclude_special)


@contextmanager
def substituted(
    model: Model, substitutes: Mapping[int, Substitute], *, exclude_special: bool | Collection[int]
) -> Iterator[None]:
    """Within it, the MLPs of some layers give what substitutes make of their inputs.

    Args:
        model: the model; its module is as before when the context is left.
        substitutes: by layer.
        exclude_special: special tokens, and the first of each sequence, keep the MLP's own output; or the layers in
            which they do.
    """
    excluded = substitutes.keys() if exclude_special is True else exclude_special or ()
    special: list[Tensor | None] = [None]

    def note_tokens(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        special[0] = None if ids is None or not excluded else _special(model, ids, named)

    with ExitStack() as stack:
        stack.callback(model.module.register_forward_pre_hook(note_tokens, with_kwargs=True).remove)
        for layer, substitute in substitutes.items():
            left = special if layer in excluded else list[Tensor | None]([None])
            stack.enter_context(_substituted_layer(modules_of(model.parts.layers[layer]), substitute, left))
        yield


@contextmanager
def _substituted_layer(modules: MlpModules, substitute: Substitute, special: list[Tensor | None]) -> Iterator[None]:
    """One layer; `special` holds which tokens keep the MLP's own output in the forward under way."""
    residual: list[Tensor | None] = [None]
    own_mlp, own_last = modules.mlp.forward, modules.last.forward
    gives_routing = hasattr(modules.mlp, "router")  # beside what it writes: gpt-oss

    def keep(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        residual[0] = arguments[0]

    def own(x: Tensor) -> Tensor:
        written = own_mlp(x)[0] if gives_routing else own_mlp(x)
        return written if modules.post_norm is None else own_last(written)

    def forward(given: Tensor) -> Any:
        whole: list[Tensor] = []

        def ran(x: Tensor) -> Tensor:
            whole.append(own(x))
            return whole[-1]

        y = substitute(residual[0], given, ran)
        left = special[0]
        if left is not None and left.shape == given.shape[:-1] and bool(left.any()):
            y = y.clone()
            # The same numbers to the bit where the MLP has run already: fewer rows may round otherwise.
            y[left] = (whole[0][left] if whole else own(given[left][None])[0]).to(y.dtype)  # under autocast another
        return (y, None) if gives_routing else y

    # Before a post-norm the MLP hands on what it was given, and the post-norm's place is where its output is made.
    forwards = {modules.mlp: lambda given: given, modules.last: forward}
    handle = modules.norm.register_forward_pre_hook(keep)
    try:
        with changed_forwards(forwards.items()):
            yield
    finally:
        handle.remove()


def _special(model: Model, ids: Int[Tensor, "B S"], named: Mapping[str, Any]) -> Bool[Tensor, "B S"]:
    """Special tokens, and each sequence's first: not the first column of a step that continues from a cache."""
    mask, cache = named.get("attention_mask"), named.get("past_key_values")
    begins = cache is None or not hasattr(cache, "get_seq_length") or cache.get_seq_length() == 0
    special = special_tokens(model, ids)
    if begins:
        first = torch.zeros_like(ids[:, 0]) if mask is None else mask.to(torch.int).argmax(1)
        special[torch.arange(len(ids), device=ids.device), first] = True
    return special
