"""Text into rows of tokens: from files, from `datasets`, from packed arrays, or from what is built in."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs import user_path
from edgewise.transcoders._corpus import builtin_documents

_KINDS = (".txt", ".md", ".jsonl")  # how files of text end
_PIECE = 1 << 16  # characters of a text file that are tokenised at once
_SOURCES = "builtin, a .txt, .md or .jsonl file, a folder of them, a .npy array of tokens, or hf:NAME[:CONFIG[:SPLIT]]"


@dataclass(frozen=True)
class TokenRows:
    """Tokens in rows of equal length, documents one after the other."""

    ids: Int[Tensor, "R S"]
    """Every token counts: there is no padding."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where they come from, as plain values."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return self.ids.numel()

    def split(self, share: float) -> tuple["TokenRows", "TokenRows"]:
        """The first rows and the last: the last are this share of all, in whole rows, and one at least.

        Raises:
            InputError: too few rows for both parts.
        """
        if not 0 < share < 1:
            raise InputError(f"text: a share of {share} to hold out; give one between 0 and 1, such as 0.05")
        last = max(1, round(len(self) * share))
        if last >= len(self):
            raise InputError(f"text: {len(self)} rows of {self.ids.shape[1]} tokens are too few to hold some out")
        # The digest of what is split, which may be rows of one's own or a part already: `held_out` knows both by it.
        source = self.source | {"sha256": self.digest}
        first = TokenRows(self.ids[:-last], source | {"rows": f"all but the last {last}"})
        return first, TokenRows(self.ids[-last:], source | {"rows": f"the last {last}"})

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return hashlib.sha256(self.ids.cpu().numpy().astype(np.int32).tobytes()).hexdigest()


def held_out(judged: dict[str, Any], trained: dict[str, Any]) -> bool:
    """Whether rows are known to have been held out from a training, by the `source` of either: the same text, of which
    they are among the last that the training left alone; or texts of other names, those of a folder's files included.
    A source that says no text, as of a transcoder without a record of its training, is not known to be another.
    """
    if "sha256" in trained and trained["sha256"] == judged.get("sha256"):
        left, last = (
            each.get("rows", "").removeprefix(start)
            for each, start in ((trained, "all but the last "), (judged, "the last "))
        )
        return left.isdecimal() and last.isdecimal() and int(last) <= int(left)
    names = [{_spelt_out(str(name)) for name in each.get("text", [])} for each in (trained, judged)]
    files = [set(each.get("files", [])) for each in (trained, judged)]
    return all(names) and (names[0] | files[0]).isdisjoint(names[1] | files[1])


def _spelt_out(name: str) -> str:
    """The name of a text on the hub with its split, which may be left out: other splits are other texts."""
    if not name.startswith("hf:"):
        return name
    dataset, config, split = _hub_parts(name)
    return f"hf:{dataset}:{config}:{split}"


def _hub_parts(source: str) -> list[str]:
    """Dataset, configuration (empty for the dataset's own) and split."""
    dataset, config, split = [*source[3:].split(":"), "", ""][:3]
    return [dataset, config, split or "train"]


def read_tokens(
    sources: str | Path | Sequence[str | Path],
    tokenizer: Any,
    *,
    context: int = 128,
    limit: int | None = None,
    vocabulary: int | None = None,
) -> TokenRows:
    """Tokenise texts and pack them into rows.

    Each row starts with the tokenizer's BOS if it has one, and documents are joined by its EOS if it has one. (A text
    file is taken in pieces of some 64,000 characters, whole lines, each a document.)

    Args:
        sources: `builtin`, `.txt`, `.md` or `.jsonl` files (objects with a `text`), folders of these, `.npy` arrays of
            token ids (`[R, context]`, or flat), or `hf:NAME[:CONFIG[:SPLIT]]` (streamed; needs the package `datasets`).
        tokenizer: of the model; not needed for arrays.
        context: tokens per row.
        limit: at most so many tokens; None for all.
        vocabulary: how many tokens the model knows, to check arrays.

    Returns:
        The rows; what is left over of the last row is dropped.

    Raises:
        InputError: a source does not exist or cannot be read, the limit is below 1, or there is not one row.
    """
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if context < 2:
        raise InputError(f"context {context}: a row needs at least 2 tokens")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: give at least 1 token, or None for all")
    arrays = [str(each).endswith(".npy") for each in given]
    if any(arrays) and not (all(arrays) and len(given) == 1):
        raise InputError("text: an array of tokens must be the only source")
    n_rows = None if limit is None else max(1, limit // context)
    if any(arrays):
        ids = _read_array(user_path(given[0]), context, n_rows, vocabulary)
    else:
        _check(given, tokenizer)
        ids = _pack((text for each in given for text in _documents(str(each))), tokenizer, context, n_rows)
    if not len(ids):
        raise InputError(f"text {', '.join(map(str, given))}: less than one row of {context} tokens; give more")
    names = [str(each) if str(each).startswith(("builtin", "hf:")) else Path(each).name for each in given]
    rows = TokenRows(ids, {"text": names, "context": context})
    source = rows.source | {"tokens": ids.numel(), "sha256": rows.digest}
    files = {file.name for each in given for file in _files(user_path(each))}
    return TokenRows(ids, source | ({"files": sorted(files)} if files else {}))  # of folders, for `held_out`


def _check(sources: Sequence[str | Path], tokenizer: Any) -> None:
    if not sources:
        raise InputError(f"text: give at least one source: {_SOURCES}")
    if tokenizer is None:
        raise InputError("text: the model has no tokenizer to read it with; load one with the model")
    if not hasattr(tokenizer, "bos_token_id"):
        raise InputError("text: a compiled program's tokenizer reads symbols, not text; give a .npy array of tokens")
    for each in map(str, sources):
        if each == "builtin" or each.startswith("hf:"):
            continue
        path = user_path(each)
        if not path.exists():
            raise InputError(f"text {each!r}: no such file; give {_SOURCES}")
        if path.is_dir() and not _files(path):
            raise InputError(f"text {each!r}: the folder holds no .txt, .md or .jsonl file")
        if not path.is_dir() and path.suffix not in _KINDS:
            raise InputError(f"text {each!r}: no file of text; give {_SOURCES}")


def _files(folder: Path) -> list[Path]:
    """A folder's files of text; none of what is no folder."""
    return sorted(path for kind in _KINDS for path in folder.rglob(f"*{kind}"))


def _documents(source: str) -> Iterator[str]:
    """The documents of a source, long ones in pieces."""
    if source == "builtin":
        yield from builtin_documents()
    elif source.startswith("hf:"):
        yield from _streamed(source)
    else:
        path = user_path(source)
        for file in _files(path) if path.is_dir() else [path]:
            yield from _lines(file) if file.suffix == ".jsonl" else _pieces(file)


def _pieces(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors begin a file with a byte order mark
            while lines := file.readlines(_PIECE):
                yield "".join(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"text {str(path)!r}: cannot be read as UTF-8 ({error})") from error


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(
        (line for piece in _pieces(path) for line in piece.removesuffix("\n").split("\n")), start=1
    ):
        if not line.strip():
            continue
        where = f"text {str(path)!r} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f'{where}: not a JSON object with a "text"') from error
        yield _text_of(record, where)


def _text_of(record: Any, where: str) -> str:
    """The text of a record of any source. Raises `InputError` where there is none: "None" would be a text."""
    if not isinstance(record, dict) or "text" not in record:
        raise InputError(f'{where}: not a JSON object with a "text"')
    if not isinstance(record["text"], str):
        raise InputError(f'{where}: its "text" is {str(record["text"])[:40]!r}, not a string')
    try:
        record["text"].encode()
    except UnicodeEncodeError as error:
        raise InputError(f'{where}: its "text" holds half of a character ({error.reason}); write it anew') from error
    return record["text"]


def _streamed(source: str) -> Iterator[str]:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise InputError(f"text {source!r}: it needs the package datasets; pip install 'edgewise[data]'") from error
    name, config, split = _hub_parts(source)
    try:
        for number, record in enumerate(load_dataset(name, config or None, split=split, streaming=True)):
            yield _text_of(record, f"text {source!r} row {number}")
    except InputError:
        raise
    except Exception as error:  # datasets and the hub client raise many kinds; the user needs one line
        reason = " ".join(str(error).split())
        raise InputError(f"text {source!r}: cannot be streamed ({reason[:160]})") from error


def _pack(documents: Iterator[str], tokenizer: Any, context: int, n_rows: int | None) -> Int[Tensor, "R S"]:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    body = context - (bos is not None)

    def rows() -> Iterator[list[int]]:
        waiting: list[int] = []
        for document in documents:
            # `verbose` would warn of texts longer than the model's context, which are cut into rows here.
            waiting += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
            waiting += [] if eos is None else [eos]
            whole = len(waiting) // body * body
            for start in range(0, whole, body):
                yield ([] if bos is None else [bos]) + waiting[start : start + body]
            waiting = waiting[whole:]

    found = [torch.tensor(row, dtype=torch.int32) for row in islice(rows(), n_rows)]
    return torch.stack(found).long() if found else torch.zeros(0, context, dtype=torch.long)


def _read_array(path: Path, context: int, n_rows: int | None, vocabulary: int | None) -> Int[Tensor, "R S"]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises what a damaged header leads to: SyntaxError, TokenError
        reason = " ".join(str(error).split())
        raise InputError(f"text {str(path)!r}: not an array that numpy.save wrote ({reason[:160]})") from error
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != context):
        raise InputError(
            f"text {str(path)!r}: {array.dtype} of shape {array.shape}; give integers, flat or [rows, {context}]"
        )
    whole = array if array.ndim == 2 else array[: len(array) // context * context].reshape(-1, context)
    ids = torch.from_numpy(np.asarray(whole[:n_rows]).astype(np.int64))
    if ids.numel() and (int(ids.min()) < 0 or (vocabulary is not None and int(ids.max()) >= vocabulary)):
        raise InputError(f"text {str(path)!r}: token ids from {int(ids.min())} to {int(ids.max())}; the model has "
                         f"{vocabulary}")  # fmt: skip
    return ids
