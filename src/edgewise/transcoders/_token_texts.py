"""Tokens as text, one by one: also those that are part of a character, and those that begin with a blank."""

from functools import cache
from typing import Any

_REPLACEMENT = "\ufffd"


class TokenTexts:
    """What stands for each token."""

    def __init__(self, tokenizer: Any) -> None:
        """For a tokenizer, or with None for numbers."""
        self.tokenizer = tokenizer
        self._known: dict[int, str | bytes] = {}

    def __getitem__(self, token: int) -> str | bytes:
        """A token's text; its bytes where they are no whole characters and the tokenizer tells them."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._text(token)
        return found

    def shown(self, token: int) -> str:
        r"""The same as text in any case: bytes as `\xe2\x80`."""
        found = self[token]
        return found if isinstance(found, str) else "".join(f"\\x{each:02x}" for each in found)

    def _text(self, token: int) -> str | bytes:
        if self.tokenizer is None:
            return str(token)
        text = self.tokenizer.decode([token])
        if not hasattr(self.tokenizer, "convert_ids_to_tokens"):  # a compiled program's, whose tokens are whole words
            return text
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):  # a number that the tokenizer has no token for
            return text or f"[{token}]"
        if _REPLACEMENT in text and (raw := _bytes(piece)) is not None:
            return raw
        # SentencePiece's mark of a blank, which decoding one token alone drops.
        return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text


def _bytes(piece: str) -> bytes | None:
    """A token's bytes, as byte-level tokenizers and SentencePiece's byte tokens name them."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    alphabet = _alphabet()
    return bytes(alphabet[each] for each in piece) if all(each in alphabet for each in piece) else None


@cache
def _alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies (Radford et al. 2019): those that can be printed
    for themselves, and for the others the characters from 256 on.
    """
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [each for each in range(256) if each not in own]
    return {chr(each): each for each in own} | {chr(256 + i): each for i, each in enumerate(others)}
