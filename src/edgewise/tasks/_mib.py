"""Rows of the MIB benchmark's data sets (Mueller et al. 2025, arXiv 2504.13151), as records of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgewise._errors import InputError
from edgewise.tasks._encode import Opening, quote

_SUFFIX = "_counterfactual"
# Those that the benchmark itself uses: indirect objects, multiple choice and ARC, arithmetic.
_PREFERRED = ("s2_io_flip_counterfactual", "symbol_counterfactual", "random_counterfactual")


def is_mib(row: Mapping[str, Any]) -> bool:
    """Whether a row has the benchmark's columns: a prompt and counterfactuals, and no pair of ours."""
    return "prompt" in row and "clean" not in row and any(str(key).endswith(_SUFFIX) for key in row)


def record_of(row: Mapping[str, Any], counterfactual: str | None = None) -> dict[str, Any]:
    """The record of a row with the columns `prompt`, `answerKey` and `choices` or `label`, and a `…_counterfactual` at
    least, of which by default the one that the benchmark uses is the corrupted prompt. Raises `InputError`.

    The answer is the row's (`metadata`'s indirect object, the label or choice of `answerKey`, or `label`), the wrong
    answer `metadata`'s subject or what the counterfactual would be answered with. As the benchmark's code has it, both
    are the first token of that text on its own: of a name after a space, of a label or choice as it stands.
    """
    there = [str(key) for key in row if str(key).endswith(_SUFFIX) and row[key] is not None]
    name = counterfactual or next((each for each in _PREFERRED if each in there), there[0] if there else "")
    name = name if name.endswith(_SUFFIX) or not name else name + _SUFFIX
    if name not in there:
        raise InputError(f"has no counterfactual {quote(name)}; it has {', '.join(there) or 'none'}")
    other = row[name]
    if not isinstance(other, Mapping) or not isinstance(other.get("prompt"), str) or not isinstance(row["prompt"], str):
        raise InputError(f'"prompt" of the row and of its {name} must be text')
    people = row.get("metadata")
    if isinstance(people, Mapping) and {"indirect_object", "subject"} <= people.keys():
        answer, wrong = (Opening(f" {people[name]}") for name in ("indirect_object", "subject"))
    else:
        answer, wrong = (Opening(str(_answer(each))) for each in (row, other))
    record = {"clean": row["prompt"], "corrupted": other["prompt"], "answer": answer, "wrong_answer": wrong}
    return record | ({"split": row["split"]} if "split" in row else {})


def _answer(row: Mapping[str, Any]) -> Any:
    """What a prompt is answered with."""
    if row.get("label") is not None:
        return row["label"]
    choices, key = row.get("choices"), row.get("answerKey")
    labels = choices.get("label") if isinstance(choices, Mapping) else choices
    if (
        not isinstance(labels, Sequence)
        or isinstance(labels, str)
        or type(key) is not int
        or not 0 <= key < len(labels)
    ):
        raise InputError('has neither a "label" nor "choices" that its "answerKey" numbers')
    return labels[key]
