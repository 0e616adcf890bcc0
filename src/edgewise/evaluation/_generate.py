"""Continue a prompt by a circuit, and by the full model beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.evaluation._judge import check_transcoders
from edgewise.models import Model, ProgramTokenizer
from edgewise.runs import SavedAsJson, check_counts
from edgewise.tasks import Batch, Encoder, Pair, Target, Task


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt, the likeliest token each time."""

    ids: tuple[int, ...]
    """Its tokens; fewer than were asked for where the last ends a text."""
    text: str | None
    """As the tokenizer writes them; None of a model without one."""


@dataclass(frozen=True)
class Generated(SavedAsJson):
    """A prompt's continuations."""

    circuit: Continuation
    model: Continuation
    """The full model's own."""


@torch.no_grad()
def generate(
    engine: Engine,
    circuit: Circuit,
    prompt: str | Sequence[int],
    corrupted: str | Sequence[int] | None = None,
    *,
    n: int = 20,
    bos: bool | None = None,
) -> Generated:
    """Let a circuit continue a prompt, and the full model beside it: greedily, every prompt run whole for each token.

    Under interchange ablation removed edges carry the run of a corrupted prompt. What the circuit says is put behind
    both prompts, so that the two differ in what they began with alone.

    Args:
        engine: model, graph and ablation.
        circuit: runs with hard masks of its kept edges.
        prompt: a text, or token ids.
        corrupted: its twin, of as many tokens; for interchange ablation alone.
        n: the most tokens to add. A token that ends a text, as the model's configuration or its tokenizer has it, is
            the last.
        bos: put the BOS token before a text, or nothing; None for what the tokenizer does by itself.

    Raises:
        InputError: a corrupted prompt is missing under interchange, given under another ablation, or of another
            length; the circuit is of another graph or ablation than the engine, its edges carry positions, or its
            features are of other transcoders; the model is a compiled program; a prompt is not of the model's tokens,
            or grows too long for the model or the means; or logits are not finite.
    """
    check_counts("generate", n=n)
    engine = Engine.of(engine, circuit.graph, circuit.stated_ablation)
    check_transcoders(engine, circuit, "circuit")
    if engine.graph.spec.spans:
        raise InputError("circuit: its edges carry position groups, which a generated token is in none of")
    if isinstance(engine.model.tokenizer, ProgramTokenizer):
        raise InputError("model: a compiled program, which continues no text; give a language model")
    paired = engine.ablation.kind == "interchange"
    if paired != (corrupted is not None):
        need = "give the prompt whose run they carry" if paired else "leave it out"
        raise InputError(f"corrupted: the removed edges' ablation is {engine.ablation.kind}; {need}")
    clean = _ids(engine.model, prompt, "prompt", bos)
    other = clean if corrupted is None else _ids(engine.model, corrupted, "corrupted", bos)
    if len(clean) != len(other):
        raise InputError(f"corrupted: {len(other)} tokens, and the prompt has {len(clean)}; they go token by token")
    mask = circuit.kept.to(engine.model.device, torch.float32)

    def batch_of(said: Sequence[int]) -> Batch:
        ids = (*clean, *said)
        pair = Pair(ids, (*other, *said), (Target(len(ids) - 1, (0,)),), "", "")
        return Task("generated", [], [], [pair]).batch("test", (0,)).to(engine.model.device)

    engine.run(
        batch_of(clean[-1:] * (n - 1)), mask
    )  # refuses other models' tokens, and what would be too long in the end
    return Generated(
        _continued(engine.model, lambda said: engine.run(batch_of(said), mask)[0], n),
        _continued(engine.model, lambda said: engine.full(batch_of(said))[0], n),
    )


def _ids(model: Model, prompt: str | Sequence[int], what: str, bos: bool | None) -> tuple[int, ...]:
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise InputError(f"{what}: the model has no tokenizer; give token ids")
        prompt = Encoder.of(model.tokenizer, bos)(prompt)
    try:
        ids = tuple(index(each) for each in prompt)
    except TypeError as error:
        raise InputError(f"{what}: not a row of token ids; give whole numbers, or a text") from error
    if not ids:
        raise InputError(f"{what}: no token; give one at least")
    return ids


def _ends(model: Model) -> set[int]:
    """The tokens that end a text."""
    holders = (getattr(model.module, "generation_config", None), model.module.config, model.tokenizer)
    given = (getattr(holder, "eos_token_id", None) for holder in holders)
    return {end for each in given if each is not None for end in (each if isinstance(each, list) else [each])}


def _continued(model: Model, logits_after: Callable[[Sequence[int]], Float[Tensor, " V"]], n: int) -> Continuation:
    """The likeliest token after what was said, up to `n` times or until one ends the text."""
    ends, said = _ends(model), list[int]()
    while len(said) < n and not ends.intersection(said[-1:]):
        logits = logits_after(said)
        if not bool(logits.isfinite().all()):
            raise InputError(f"token {len(said) + 1}: its logits are not finite; check the model's weights and type")
        said.append(int(logits.argmax()))
    return Continuation(tuple(said), None if model.tokenizer is None else model.tokenizer.decode(said))
