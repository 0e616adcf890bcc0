"""Files of templates and words, in YAML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edgewise._errors import InputError
from edgewise.runs import check_extent
from edgewise.tasks._encode import quote
from edgewise.tasks._task import Task
from edgewise.tasks._template import from_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEYS = ("templates", "words", "corrupted", "answer", "wrong_answer", "shared", "both_ways", "multi_token")
_SWITCHES = {"true": True, "yes": True, "false": False, "no": False}
_MOST_BYTES = 1 << 20  # a file of templates is a page or two


def from_template_file(
    path: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: int = 200,
    validation: int = 200,
    test: int = 256,
    seed: int = 0,
    bos: bool | None = None,
    longest: int | None = None,
) -> Task:
    """A task of a YAML file that holds what `from_template` takes: `templates`, `words`, `corrupted`, `answer` and so
    on. Everything in it is read as text, so that `no` and `007` are words as they stand.

    Args:
        path: the file.
        tokenizer: the model's.
        train: how many pairs to train on, at most.
        validation: how many to choose by, at most.
        test: how many to judge on, at most.
        seed: see `from_template`.
        bos: see `from_records`.
        longest: see `from_template`.

    Raises:
        InputError: the file cannot be read, or something in it is wrong.
    """
    given = _read(str(path))
    options: dict[str, Any] = {"train": train, "validation": validation, "test": test, "seed": seed}
    try:
        return from_template(
            given.pop("templates"),
            given.pop("words"),
            tokenizer,
            Path(path).stem,
            **given,
            **options,
            bos=bos,
            longest=longest,
        )
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{Path(path).stem}: ')}") from None


def _read(path: str) -> dict[str, Any]:
    """What a file of templates says, by the parameters of `from_template`."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise InputError(f"more than {_MOST_BYTES >> 20} MiB; give a file of templates and words")
        given = yaml.load(data.decode("utf-8-sig"), _Texts)
        check_extent(given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = quote(" ".join(str(error).split()))[1:-1]
        raise InputError(f"{quote(path)}: cannot be read ({reason}); give a YAML file of templates and words") from None
    if not isinstance(given, dict):
        raise InputError(f"{path}: holds no keys; give templates: and words:, and answer: or wrong_answer:")
    if unknown := [key for key in given if key not in _KEYS]:
        raise InputError(f"{path}: there is no {quote(str(unknown[0]))}; use {', '.join(_KEYS)}")
    if missing := [key for key in _KEYS[:2] if key not in given]:
        raise InputError(f"{path}: has no {missing[0]}; give some")
    for switch in ("both_ways", "multi_token"):
        if switch in given and (given := {**given, switch: _SWITCHES.get(str(given[switch]).lower())})[switch] is None:
            raise InputError(f"{path}: {switch} is neither true nor false; give one")
    shared = given.get("shared", [])
    given["shared"] = shared.split() if isinstance(shared, str) else shared
    if not isinstance(given["shared"], list) or not all(isinstance(each, str) for each in given["shared"]):
        raise InputError(f"{path}: shared: give the names of lists of words")
    return given


class _Texts(yaml.BaseLoader):
    """Reads every scalar as text, and refuses a key that comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"line {line}: a key is a list or a mapping; give text")
            if key.value in seen:
                raise InputError(f"line {line}: {quote(key.value)} is given twice; keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)
