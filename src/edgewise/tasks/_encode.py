"""A user's tokenizer, reduced to what pairs of prompts need: ids, continuations, single-token words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from edgewise._errors import InputError

if TYPE_CHECKING:  # transformers is slow to import, and only its type is needed here
    from transformers import PreTrainedTokenizerBase

Ids: TypeAlias = tuple[int, ...]

# Tokenizers without a limit of their own declare int(1e30).
_NO_LIMIT = 10**9
_SHOWN = 90  # characters of user text in a message


@dataclass(frozen=True)
class Encoder:
    """Turns text into token ids as the model would be given them.

    The tokens that the tokenizer puts before a text by default (`<s>`, `<|begin_of_text|>`) are kept. Those it puts
    after a text are not: a prompt must end where the next token is predicted.
    """

    tokenizer: Any
    """None where prompts are token ids already, and no text is read."""
    prefix: Ids = ()
    """What the tokenizer puts before a text."""
    asked: bool = False
    """Whether the prefix was asked for: then it also stands before prompts that are token ids already."""

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, bos: bool | None = None, stand_ins: Sequence[str] = ("eos",)
    ) -> Encoder:
        """Wrap a Hugging Face tokenizer, slow or fast.

        Args:
            tokenizer: the model's.
            bos: put its BOS token before every text, or nothing; None for what it does by itself.
            stand_ins: which tokens to take, in this order, where there is no BOS token (Qwen): EOS as in
                TransformerLens, so in EAP-IG and MIB; PAD, then EOS as in circuit-tracer.

        Raises:
            InputError: it is no tokenizer, or has no such token to put there.
        """
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise InputError(
                f"tokenizer: {type(tokenizer).__name__} is not a Hugging Face tokenizer; pass the model's own"
            )
        found = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", *stand_ins))
        first: Any = next((each for each in found if each is not None), None)
        if bos and first is None:
            raise InputError("bos=True: this tokenizer has no BOS token, and none to stand for it; use bos=False")
        if bos is False or not any(_ids(tokenizer, [""], special=True)):
            return cls(tokenizer, (first,) if bos else (), bool(bos))
        # It puts something around a text; only comparing shows on which side.
        (full,), (bare,) = _ids(tokenizer, ["a"], special=True), _ids(tokenizer, ["a"], special=False)
        start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        missing = bool(bos) and first not in full[:start]
        return cls(tokenizer, (first,) * missing + full[:start], bool(bos))

    @property
    def bos(self) -> bool:
        """Whether texts begin with the BOS token, or with what stands for it."""
        return self.asked or getattr(self.tokenizer, "bos_token_id", None) in self.prefix

    def __call__(self, text: str) -> Ids:
        """The ids of one text."""
        return self.many([text])[0]

    def many(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of several texts, as fast as the tokenizer can. One that begins with the prefix already is left so.

        Raises:
            InputError: a text is longer than the tokenizer's model allows.
        """
        ids = [self._begun(each) for each in _ids(self.tokenizer, texts, special=False)]
        limit = getattr(self.tokenizer, "model_max_length", None) or _NO_LIMIT
        if limit < _NO_LIMIT and (longest := max(map(len, ids), default=0)) > limit:
            raise InputError(
                f"a text has {longest} tokens, and the tokenizer's model takes at most {limit}; shorten it"
            )
        return ids

    def given(self, ids: Ids) -> Ids:
        """A prompt that is token ids already, with the prefix if that was asked for."""
        return self._begun(ids) if self.asked else ids

    def begun(self, ids: Ids) -> bool:
        """Whether a prompt begins with the prefix."""
        return ids[: len(self.prefix)] == self.prefix

    def _begun(self, ids: Ids) -> Ids:
        return ids if self.begun(ids) else self.prefix + ids

    def continuation(self, prompt: str, answer: str) -> tuple[Ids, Ids]:
        """The prompt's tokens, and the tokens with which `answer` continues it.

        Whether a space belongs to the prompt or to the answer is settled by the tokenizer: where `"to "` and `"Mary"`
        make the tokens `to` and ` Mary`, the space goes to the answer.

        Raises:
            InputError: the answer is empty, the prompt has no token to predict from, or the prompt's tokens are not the
                first tokens of prompt and answer together, so that no token is the answer's first.
        """
        if not answer:
            raise InputError("the answer is empty; give the text that continues the prompt")
        if prompt[-1:] == " " and answer[0] == " ":
            raise InputError(f"{quote(prompt[-20:])} and the answer {quote(answer)} meet with two spaces; keep one")
        whole, asked, stripped = self.many([prompt + answer, prompt, prompt.rstrip(" ")])
        for ids in (asked, stripped):
            check_prompt(ids)
            if len(ids) < len(whole) and whole[: len(ids)] == ids:
                self._refuse_unknown(answer, whole[len(ids) :])
                return ids, whole[len(ids) :]
        raise InputError(
            f"the answer {quote(answer)} changes the prompt's own tokens, so that none is its first; "
            + self.contrast("prompt", asked, "with the answer", whole)
        )

    def _refuse_unknown(self, answer: str, ids: Ids) -> None:
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        # Byte-level tokenizers know everything, and name an ordinary special token as their unknown one.
        if unknown is not None and unknown in ids and str(self.tokenizer.unk_token) not in answer:
            raise InputError(
                f"the answer {quote(answer)} is not in the tokenizer's vocabulary; use words that it knows"
            )

    def token(self, answer: Opening | int) -> int:
        """The token that an answer stands for: the first of a text on its own, or a token by its number. Raises
        `InputError` where there is none.
        """
        if isinstance(answer, Opening):
            (ids,) = _ids(self.tokenizer, [answer.text], special=False)
            if not ids:
                raise InputError(f"the answer {quote(answer.text)} has no token")
            self._refuse_unknown(answer.text, ids[:1])
            return ids[0]
        return self.known(answer, "answer")

    def known(self, token: int, key: str) -> int:
        """A token by its number, which a record gives under a key. Raises `InputError` where there is none."""
        if self.tokenizer is not None and token >= len(self.tokenizer):
            raise InputError(f"the {key} {token} is no token; the tokenizer has {len(self.tokenizer)}")
        return token

    def single_tokens(self, words: Sequence[str]) -> dict[str, int]:
        """The words that are one known token of their own after a space, each with that token's id."""
        # Any preceding word will do; it only has to be there, so that the space does not start the text.
        head, *phrases = self.many(["the", *(f"the {word}" for word in words)])
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        found: dict[int, str] = {}
        for word, ids in zip(words, phrases, strict=True):
            if ids[:-1] == head and ids[-1] != unknown:
                found.setdefault(ids[-1], word)
        return {word: token for token, word in found.items()}

    def openings(self, words: Sequence[str], gap: str = "") -> dict[str, int]:
        """The first token of each word that goes on with a text which ends with `gap`; unknown ones are left out."""
        head, *phrases = self.many([f"is{gap}", *(f"is {word}" for word in words)])
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return {
            word: ids[len(head)]
            for word, ids in zip(words, phrases, strict=True)
            if self.gap(word) == gap and ids[: len(head)] == head != ids and ids[len(head)] != unknown
        }

    def gap(self, word: str) -> str:
        """What a prompt ends with where `word` comes next: a space that is a token of its own, or nothing."""
        bare, spaced, whole = self.many(["is", "is ", f"is {word}"])
        return " " if len(bare) < len(spaced) < len(whole) and whole[: len(spaced)] == spaced else ""

    def contrast(self, first: str, first_ids: Ids, second: str, second_ids: Ids) -> str:
        """Two named tokenisations for a message, cut to the surroundings of their first difference."""
        both = zip(first_ids, second_ids, strict=False)
        difference = next((i for i, (a, b) in enumerate(both) if a != b), min(len(first_ids), len(second_ids)))
        start = max(0, difference - 3)
        return f"{first}: {self._show(first_ids, start)}, {second}: {self._show(second_ids, start)}"

    def _show(self, ids: Ids, start: int) -> str:
        tokens = self.tokenizer.convert_ids_to_tokens(list(ids[start : start + _SHOWN]))
        shown = quote("|".join(str(token) for token in tokens))
        return ("…|" if start else "") + shown[1:-1]


@dataclass(frozen=True)
class Opening:
    """An answer that stands for one token: the first of a text on its own, whatever comes before it."""

    text: str


def check_prompt(ids: Ids) -> None:
    """Refuse a prompt without a token to predict from. Raises `InputError`."""
    if not ids:
        raise InputError(
            "the prompt is empty, and this tokenizer puts no token before it that could predict the answer; give a "
            "prompt"
        )


def quote(text: str) -> str:
    """A user's text for a message: quoted, short, and on one line whatever it holds."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut) + '"'


def _ids(tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str], special: bool) -> list[Ids]:
    if tokenizer is None:
        raise InputError("there is no tokenizer to read text with; give token ids, or the model's tokenizer")
    try:
        # Some fast tokenizers come with padding or truncation switched on, and warn about long texts.
        batch = tokenizer(list(texts), add_special_tokens=special, padding=False, truncation=False, verbose=False)
    except Exception as error:  # fast tokenizers raise bare exceptions, as for a word outside a closed vocabulary
        raise InputError(f"the tokenizer fails on {quote(texts[0])}: {quote(str(error))}") from error
    return [tuple(ids) for ids in batch["input_ids"]]
