"""Records from files, one by one: JSONL, JSON, CSV and Parquet.

Each comes with the place it stands at. A line that is no record comes as the refusal that says why, so that what is
after it can be looked at too; where nothing can be after it, the refusal is raised.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, BinaryIO

from edgewise._errors import InputError
from edgewise.tasks._custom import Placed
from edgewise.tasks._encode import quote

MAX_LINE_BYTES = 1 << 20  # a pair of prompts is a few hundred; a longer line is some other kind of file
_MAX_JSON_BYTES = 64 << 20  # a JSON file is read whole
_AT_ONCE = 1024  # rows of a Parquet file read together
_IDS = re.compile(r"\s*\[\s*\d+(\s*,\s*\d+)*\s*\]\s*")
_LIST = re.compile(r"\s*\[\s*(['\"].*)?\]\s*", re.DOTALL)  # of quoted texts, whether JSON or Python wrote it


def jsonl_rows(path: str, seen: Callable[[bytes], object]) -> Iterator[Placed]:
    """The records of a JSONL file; `seen` is given the file's bytes on the way."""
    for number, line in _lines(path, seen):
        try:
            text = _decoded(line, first=number == 1)
            if text.strip():
                yield f"{path}:{number}", _parsed(text)
        except InputError as error:
            yield f"{path}:{number}", error


def json_rows(path: str, seen: Callable[[bytes], object]) -> Iterator[Placed]:
    """The records of a JSON file: a list of them, an object with a list called `prompts` (auto-circuit's), or objects
    on lines (feature-circuits').
    """
    with opened(path) as file:
        data = file.read(_MAX_JSON_BYTES + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise InputError(f"{path}: more than {_MAX_JSON_BYTES >> 20} MiB of JSON; write it as JSONL, one pair a line")
    try:
        whole = json.loads(_decoded(data, first=True), object_pairs_hook=_without_duplicates)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        yield from jsonl_rows(path, seen)
        return
    seen(data)
    found = whole["prompts"] if isinstance(whole, dict) and "prompts" in whole else whole
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise InputError(f'{path}: it is no list of pairs, and has none called "prompts"')
    for number, row in enumerate(found):
        yield f"{path}[{number}]", row


def csv_rows(path: str, seen: Callable[[bytes], object]) -> Iterator[Placed]:
    """The records of a CSV file with a header, as spreadsheets write it; an empty cell is an absent value.

    A record stands where its first line does. Records of empty cells alone are no records.
    """
    lines: list[str] = []  # of one record

    def decoded() -> Iterator[str]:
        for number, line in _lines(path, seen):
            lines.append(_decoded(line, first=number == 1))
            yield lines[-1]

    reader = csv.reader(decoded(), strict=True)
    header: list[str] | None = None
    while True:
        lines.clear()
        where = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{where}: not CSV ({error}); write it as spreadsheets do") from None
        except InputError as error:
            raise InputError(f"{path}:{reader.line_num + 1}: {error}") from None
        if cells is None:
            return
        if not any(cells):
            continue
        try:
            _refuse_spaced_quotes(lines, cells)
            if header is not None:
                yield where, _of_cells(header, cells)
                continue
        except InputError as error:
            if header is not None:
                yield where, error
                continue
            raise InputError(f"{where}: {error}") from None
        header = _header(where, cells)


def parquet_rows(path: str, seen: Callable[[bytes], object]) -> Iterator[Placed]:
    """The records of a Parquet file, read some at a time."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports] (optional)
        from pyarrow import parquet  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow; pip install 'edgewise[data]'") from error
    with opened(path) as file:
        while block := file.read(1 << 20):
            seen(block)
        file.seek(0)
        numbers = count(1)
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=_AT_ONCE):
                for row in batch.to_pylist():
                    present = {key: value for key, value in row.items() if value is not None}
                    yield f"{path}: row {next(numbers)}", present
        except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            reason = quote(str(error))[1:-1]
            raise InputError(f"{path}: not a Parquet file that can be read ({reason}); write it anew") from None


READERS: dict[str, Callable[[str, Callable[[bytes], object]], Iterator[Placed]]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
}


def opened(path: str) -> BinaryIO:
    """The file, or a refusal."""
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{quote(path)}: cannot be read ({reason}); give a file of pairs") from None


def _lines(path: str, seen: Callable[[bytes], object]) -> Iterator[tuple[int, bytes]]:
    """The numbered lines; one that is too long ends them, for what follows it is its own rest."""
    with opened(path) as file:
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            seen(line)
            if len(line) > MAX_LINE_BYTES:
                raise InputError(
                    f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes; "
                    "put one pair of prompts on each line"
                )
            yield number, line


def _refuse_spaced_quotes(lines: Sequence[str], cells: list[str]) -> None:
    """Refuse `a, "b"`: read to the letter, the space and the quotes would be part of the text."""
    if not any(' "' in line for line in lines):
        return
    try:
        bare = next(csv.reader(lines, skipinitialspace=True, strict=True))
    except csv.Error:
        bare = []
    if len(bare) != len(cells) or any(b not in (a, a.lstrip(" ")) for a, b in zip(cells, bare, strict=True)):
        raise InputError("the space between a comma and a quote would count as text; remove it")


def _of_cells(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise InputError(f"has {len(cells)} cells where the header names {len(header)}; quote cells with commas")
    return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if cell}


def _value(name: str, cell: str) -> str | list[str]:
    """A cell's text; or its texts, where answers are written as a list in JSON."""
    if name in ("clean", "corrupted") and _IDS.fullmatch(cell):
        raise InputError(f'"{name}" looks like a list of token ids, and a cell is text; give ids in JSONL')
    if name not in ("answer", "wrong_answer") or not _LIST.fullmatch(cell):
        return cell
    try:
        texts = json.loads(cell)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f'"{name}" looks like a list and is not one of texts in JSON; write ["…", "…"]')
    return texts


def _header(where: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not {"clean", "corrupted"} <= set(names):
        raise InputError(
            f'{where}: the first line must name the columns between commas, "clean" and "corrupted" among them'
        )
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where}: the column {quote(repeated)} is named twice; keep one")
    return names


def _decoded(line: bytes, first: bool) -> str:
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8 text") from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg}, column {error.colno}); put one object on each line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in thousands
        raise InputError(f"not JSON of ours ({str(error)[:80]}); put one object of texts on each line") from None


def _without_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in items:
        if key in found:
            raise InputError(f"{quote(key)} is given twice; keep one")
        found[key] = value
    return found
