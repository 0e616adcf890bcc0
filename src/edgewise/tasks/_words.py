"""What the built-in tasks make their prompts of: `words.yaml` and `templates.yaml`, which say how to add to them."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from edgewise.tasks._splits import Split


@cache
def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def word_list(kind: str) -> tuple[str, ...]:
    """The words of a list."""
    return tuple(_read("words.yaml")[kind].split())


def templates(task: str) -> dict[Split, tuple[str, ...]]:
    """The templates of a task, by split."""
    return {split: tuple(texts) for split, texts in _read("templates.yaml")[task].items()}


FEMALE_NAMES, MALE_NAMES = word_list("female names"), word_list("male names")
OBJECTS, PLACES = word_list("objects"), word_list("places")
