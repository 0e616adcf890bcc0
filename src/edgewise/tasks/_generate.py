"""How the built-in tasks make their pairs: texts drawn from a seed, kept where the tokenizer aligns them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from inspect import Signature, cleandoc, signature
from itertools import islice
from random import Random
from string import Formatter
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeAlias, cast, runtime_checkable

from edgewise._errors import InputError
from edgewise.tasks._draw import generator
from edgewise.tasks._encode import Encoder, Ids
from edgewise.tasks._pairs import Pair, Target
from edgewise.tasks._splits import SPLITS, Split
from edgewise.tasks._store import stored
from edgewise.tasks._task import Task, pairs_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Options = ParamSpec("Options")
Pieces = list["str | tuple[str, str]"]
"""A prompt cut into what clean and corrupted share, and what each of them has in its place."""

MOST_PAIRS = 1_000_000
"""In a split. A task is meant to have up to a tenth of it; far beyond, making it would seem never to end."""
_AT_ONCE = 1024  # drafts tokenised together: memory does not grow with the task
_WINDOW = 20 * _AT_ONCE  # of so many drafts one in a hundred must be new


class Draft(NamedTuple):
    """A pair still as text."""

    texts: tuple[str, ...]
    """The clean prompt, changed into the corrupted one a place at a time: each step must keep the token count."""
    answers: tuple[int, ...]
    """The right next tokens."""
    wrong: tuple[int, ...]
    continuations: tuple[tuple[str, int], ...]
    """Texts that may follow the clean prompt, with the token that must then be the next; checked pair by pair."""


Draws: TypeAlias = Callable[[Split, Random], Iterator[Draft]]
"""Random drafts of a split without end; called once per split, each time with a generator of its own."""

_SHARED = """\
    tokenizer: the model's.
    train: how many pairs to train on.
    validation: how many to choose by.
    test: how many to judge on.
    seed: another seed draws other pairs, from the same words and templates.
    bos: put the BOS token before every prompt, or nothing; None for what the tokenizer does by itself."""
_OUTCOME = """
Returns:
    The task, with loss "kl" and metric "{metric}".

Raises:
    InputError: an argument is impossible, or the tokenizer does not cut the task's words as the task needs them."""


def both_texts(pair: Pair) -> str:
    """What makes two pairs the same in most tasks."""
    return f"{pair.clean_text}\0{pair.corrupted_text}"


@runtime_checkable
class Builder(Protocol[Options]):
    """A built-in task: from a tokenizer, the sizes of the splits, a seed and options of its own to the pairs."""

    def __call__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train: int = 200,
        validation: int = 200,
        test: int = 256,
        seed: int = 0,
        bos: bool | None = None,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Task: ...


def built_in(
    name: str, *, metric: str = "logit_diff", identity: Callable[[Pair], str] = both_texts
) -> Callable[[Callable[Concatenate[Encoder, Options], Draws | tuple[Draws, dict[str, Any]]]], Builder[Options]]:
    """Make a task's builder of what is its own: how it draws.

    What it decorates takes an `Encoder` and the task's options, and gives its `Draws`, with options beside them that
    were settled differently from how they were given. Its docstring describes task and options; the builder's says the
    rest.

    Args:
        name: the task's name.
        metric: what attribution explains.
        identity: what makes two pairs the same.
    """

    def decorate(drawing: Callable[..., Draws | tuple[Draws, dict[str, Any]]]) -> Builder[Options]:
        shared = [*signature(Builder.__call__).parameters.values()][1:7]
        own = [*signature(drawing).parameters.values()][1:]
        parameters = Signature([*shared, *own], return_annotation="Task")

        def build(*args: Any, **kwargs: Any) -> Task:
            given = parameters.bind(*args, **kwargs)
            given.apply_defaults()
            arguments = dict(given.arguments)
            encoder = Encoder.of(arguments.pop("tokenizer"), arguments["bos"])
            if arguments["bos"] is None:  # as files of version 0.1 have it
                del arguments["bos"]
            check_sizes(name, arguments)
            found = drawing(encoder, **{option.name: arguments[option.name] for option in own})
            draws, settled = found if isinstance(found, tuple) else (found, {})
            splits = []
            for split in SPLITS:
                drafts = draws(split, generator(name, arguments["seed"], split))
                pairs = _distinct(f"{name}: {split}", drafts, arguments[split], encoder, identity)
                splits.append(stored(pairs))
            made_by = {"task": name, "arguments": arguments | settled, "bos": encoder.bos}
            provenance = made_by | {"sha256": pairs_hash(*splits)}
            return Task(name, *splits, loss="kl", metric=metric, provenance=provenance)

        described, _, options = cleandoc(drawing.__doc__ or "").partition("\n\nArgs:\n    encoder: the tokenizer's.")
        build.__doc__ = f"{described}\n\nArgs:\n{_SHARED}{options}\n{_OUTCOME.format(metric=metric)}"
        build.__name__, build.__qualname__, build.__module__ = drawing.__name__, drawing.__name__, drawing.__module__
        setattr(build, "__signature__", parameters)  # noqa: B010 (pyright knows no such attribute of functions)
        return cast("Builder[Options]", build)

    return decorate


def check_sizes(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse sizes and seeds that are no whole numbers, and sizes beyond reason."""
    for argument in (*SPLITS, "seed"):
        value = arguments[argument]
        if type(value) is not int or value < 0:
            raise InputError(f"{name}: {argument}={value!r} must be a whole number, 0 or more")
    if (largest := max(arguments[split] for split in SPLITS)) > MOST_PAIRS:
        raise InputError(f"{name}: {largest} pairs in a split are too many; ask for at most {MOST_PAIRS}")


def _distinct(
    where: str, drawn: Iterator[Draft], size: int, encoder: Encoder, identity: Callable[[Pair], str]
) -> Iterator[Pair]:
    """The first `size` different pairs that the tokenizer keeps aligned. Raises `InputError` if there are too few."""
    seen: set[bytes] = set()
    drafts, most, checked, known = 0, 20 * size + 200, 0, 0
    while (missing := size - len(seen)) > 0:
        dry = False
        if drafts - checked >= _WINDOW:
            dry = 100 * (len(seen) - known) < drafts - checked
            checked, known = drafts, len(seen)
        if dry or drafts >= most:
            raise InputError(
                f"{where}: only {len(seen)} different pairs found that this tokenizer aligns; ask for fewer"
            )
        some = list(islice(drawn, min(missing, _AT_ONCE)))
        drafts += len(some)
        for pair in _pairs(some, encoder):
            if pair is None:
                continue
            key = hashlib.sha256(identity(pair).encode()).digest()[:16]
            if key not in seen:
                seen.add(key)
                yield pair


def single_tokens(name: str, kind: str, words: Sequence[str], encoder: Encoder, needed: int) -> dict[str, int]:
    """The words that are one token after a space, with the token of each; refused where they are fewer than needed."""
    usable = encoder.single_tokens(words)
    check_enough(name, kind, words, usable, "single tokens", needed)
    return usable


def check_enough(name: str, kind: str, words: Collection[str], usable: Collection[str], what: str, needed: int) -> None:
    """Refuse a tokenizer that has too few of a task's words in the form that the task needs."""
    if len(usable) < needed:
        raise InputError(
            f"{name}: of our {len(words)} {kind}s this tokenizer has {len(usable)} as {what} and "
            f"{needed} are needed; use another tokenizer, or pairs of your own (from_file)"
        )


def filled(template: str, clean: Mapping[str, str], corrupted: Mapping[str, str]) -> Pieces:
    """A template's pieces, its `{blanks}` filled with the clean and the corrupted words."""
    pieces: Pieces = []
    for literal, blank, _, _ in Formatter().parse(template):
        pieces.append(literal)
        if blank is not None:
            pieces.append(clean[blank] if clean[blank] == corrupted[blank] else (clean[blank], corrupted[blank]))
    return pieces


def steps(pieces: Pieces) -> tuple[str, ...]:
    """The clean text, changed into the corrupted one piece by piece from the left."""
    places = [place for place, piece in enumerate(pieces) if isinstance(piece, tuple)]
    return tuple(
        "".join(
            piece if isinstance(piece, str) else piece[place in places[:done]] for place, piece in enumerate(pieces)
        )
        for done in range(len(places) + 1)
    )


def contrasted(pieces: Pieces, tokens: Mapping[str, int], answer: str, *wrong: str, space: str = " ") -> Draft:
    """The pair of these prompts that is judged by words, of which `tokens` has the first token of each; `space` stands
    between prompt and word.
    """
    continuations = tuple((f"{space}{word}", tokens[word]) for word in (answer, *wrong))
    return Draft(steps(pieces), (tokens[answer],), tuple(tokens[word] for word in wrong), continuations)


def _pairs(drafts: list[Draft], encoder: Encoder) -> list[Pair | None]:
    """The pairs of some drafts; None for one that cannot be used."""
    texts = [(*draft.texts, *(draft.texts[0] + more for more, _ in draft.continuations)) for draft in drafts]
    ids = iter(encoder.many([text for each in texts for text in each]))
    return [_pair(draft, list(islice(ids, len(each)))) for draft, each in zip(drafts, texts, strict=True)]


def _pair(draft: Draft, ids: list[Ids]) -> Pair | None:
    """The pair, if each change keeps the token count and each continuation goes on with its token."""
    texts, continued = ids[: len(draft.texts)], ids[len(draft.texts) :]
    clean, corrupted = texts[0], texts[-1]
    if len({len(each) for each in texts}) > 1 or clean == corrupted:
        return None
    for (_, token), whole in zip(draft.continuations, continued, strict=True):
        if whole[: len(clean) + 1] != (*clean, token):
            return None
    target = Target(len(clean) - 1, draft.answers, draft.wrong)
    return Pair(clean, corrupted, (target,), draft.texts[0], draft.texts[-1])
