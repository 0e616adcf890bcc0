"""Records from files, one by one: JSONL, CSV and Parquet.

Each comes with the place it stands at. A line that is no record comes as the refusal that says why, so that what is
after it can be looked at too; where nothing can be after it, the refusal is raised.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, BinaryIO

from edgewise._errors import InputError
from edgewise.tasks._custom import Placed
from edgewise.tasks._encode import quote

MAX_LINE_BYTES = 1 << 20  # a pair of prompts is a few hundred; a longer line is some other kind of file
_AT_ONCE = 1024  # rows of a Parquet file read together


def jsonl_rows(path: str, seen: Callable[[bytes], object]) -> Iterator[Placed]:
    """The records of a JSONL file; `seen` is given the file's bytes on the way."""
    for number, line in _lines(path, seen):
        try:
            text = _decoded(line, first=number == 1)
            if text.strip():
                yield f"{path}:{number}", _parsed(text)
        except InputError as error:
            yield f"{path}:{number}", error


def csv_rows(path: str, seen: Callable[[bytes], object]) -> Iterator[Placed]:
    """The records of a CSV file with a header, as spreadsheets write it; an empty cell is an absent value."""
    reader = csv.reader((_decoded(line, first=number == 1) for number, line in _lines(path, seen)), strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: not CSV ({error}); write it as spreadsheets do") from None
        except InputError as error:
            raise InputError(f"{path}:{reader.line_num + 1}: {error}") from None
        if cells is None:
            return
        where = f"{path}:{reader.line_num}"
        if not cells:
            continue
        if header is None:
            header = _header(where, cells)
        elif len(cells) != len(header):
            yield (
                where,
                InputError(f"has {len(cells)} cells where the header names {len(header)}; quote cells with commas"),
            )
        else:
            yield where, {name: cell for name, cell in zip(header, cells, strict=True) if cell}


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


def _header(where: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not {"clean", "corrupted"} <= set(names):
        raise InputError(f'{where}: the first line must name the columns, "clean" and "corrupted" among them')
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
