"""Rows of other tools' pairs as records of ours: EAP-IG's tables, auto-circuit's and feature-circuits' JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise._errors import InputError
from edgewise.tasks._encode import quote

_FEATURE_CIRCUITS = {
    "clean_prefix": "clean",
    "patch_prefix": "corrupted",
    "clean_answer": "answer",
    "patch_answer": "wrong_answer",
}
_AUTO_CIRCUIT = {"clean": "clean", "corrupt": "corrupted", "answers": "answer", "wrong_answers": "wrong_answer"}


def kind_of(row: Mapping[str, Any]) -> str | None:
    """The tool whose columns a row has; None for a record of ours, or anything else."""
    if "clean_prefix" in row:
        return "feature-circuits' columns"
    if "corrupt" in row and "clean" in row:
        return "auto-circuit's columns"
    return "EAP-IG's columns" if "clean" in row and {"correct_idx", "incorrect_idx"} & row.keys() else None


def translated(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a row that `kind_of` names. Raises `InputError` for one that would mean something else here."""
    kind = kind_of(row)
    if kind == "EAP-IG's columns":
        return _of_eap_ig(row)
    names = _FEATURE_CIRCUITS if kind == "feature-circuits' columns" else _AUTO_CIRCUIT
    if missing := [theirs for theirs, ours in names.items() if theirs not in row and ours != "wrong_answer"]:
        raise InputError(f"has {kind}, and no {quote(missing[0])}")
    record = {ours: row[theirs] for theirs, ours in names.items() if row.get(theirs) is not None}
    return record | ({"split": row["split"]} if "split" in row else {})


def _of_eap_ig(row: Mapping[str, Any]) -> dict[str, Any]:
    """Its answers are numbers of the tokenizer's, judged after the last token of the clean prompt."""
    if "incorrect_idx" not in row:  # their greater-than: of a year's last two digits, no token
        raise InputError(
            'has "correct_idx" and no "incorrect_idx": in EAP-IG\'s greater-than two digits of a year, and no token; '
            "use the task greater-than, or give both"
        )
    if "correct_idx" not in row:
        raise InputError('has "incorrect_idx" and no "correct_idx"; give both')
    record = {name: row[name] for name in ("clean", "corrupted", "split") if name in row}
    return record | {"answer": _number(row, "correct_idx"), "wrong_answer": _number(row, "incorrect_idx")}


def _number(row: Mapping[str, Any], key: str) -> int:
    value = row[key]
    if isinstance(value, str) and value.isascii() and value.isdigit():  # a table's cell
        return int(value)
    if type(value) is int and value >= 0:
        return value
    raise InputError(f'"{key}" is {quote(str(value))}; it must be the number of one token')
