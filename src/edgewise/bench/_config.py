"""What a bench is to run, read from a YAML file and checked before anything is loaded."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from edgewise._errors import InputError
from edgewise.bench._settings import EMPTY, MethodSpec, listed, mapping, method_spec, numbers, whole_numbers
from edgewise.graph import Embeddings, KeyValue
from edgewise.runs import read_yaml
from edgewise.tasks import HEADLINE, SUFFIXES, TASK_NAMES, TEMPLATE_SUFFIXES, metric_names

_KEYS = ("models", "tasks", "methods", "seeds", "sparsities", "pairs", "metrics", "ablation", "embeddings", "kv")
_KEYS += ("necessity", "note")
REMOVED = "removed "
"""Before a metric's name: that of the model without the circuit."""
_PAIRS = {"train": 200, "validation": 200, "test": 256, "seed": 0}
_SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class TaskSpec:
    """One behaviour."""

    name: str
    task: str
    """A built-in task, or a file of pairs or of templates."""
    options: dict[str, Any]
    """Of its builder, sizes and seed among them."""

    @cached_property
    def sha256(self) -> str | None:
        """Of its file; None where it is built in, or the file is not here."""
        try:
            return None if self.task in TASK_NAMES else hashlib.sha256(Path(self.task).read_bytes()).hexdigest()
        except OSError:
            return None


@dataclass(frozen=True)
class BenchConfig:
    """Methods × tasks × models × sizes × seeds."""

    models: tuple[str, ...]
    tasks: tuple[TaskSpec, ...]
    methods: tuple[MethodSpec, ...]
    metrics: tuple[str, ...] = HEADLINE
    """A metric that a task's pairs do not allow is left out there."""
    ablation: str = "interchange"
    embeddings: str = "joint"
    kv: str = "physical"
    necessity: bool = False
    """Also judge the model without each circuit, under the metrics' names with `removed` before them. These runs have
    nearly all edges, so judging takes some twice as long or more."""
    note: str = ""
    """What a reader of the page has to know; it decides no number."""

    @staticmethod
    def load(path: str | Path) -> "BenchConfig":
        """Read a `.yaml` file.

        Raises:
            InputError: there is none, it is no YAML, or something in it is wrong; the message names it.
        """
        path = Path(path)
        content = read_yaml(path)
        try:
            return BenchConfig.of(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @staticmethod
    def of(content: Any) -> "BenchConfig":
        """Check what a file or a caller gives.

        Raises:
            InputError: something in it is wrong.
        """
        if not isinstance(content, Mapping):
            raise InputError(f"a bench is a mapping with {', '.join(_KEYS[:3])}, not {str(content)[:60]!r}")
        _known("bench", content, _KEYS)
        if missing := [key for key in _KEYS[:3] if not content.get(key)]:
            raise InputError(f"bench: {missing[0]} is missing; give at least one")
        sparsities = numbers("sparsities", content.get("sparsities", _SPARSITIES))
        seeds = whole_numbers("seeds", content.get("seeds", (0,)))
        pairs = {**_PAIRS, **mapping("pairs", content.get("pairs", {}))}
        _known("pairs", pairs, tuple(_PAIRS))
        methods = (EMPTY, *listed(content["methods"]))
        config = BenchConfig(
            tuple(str(model) for model in listed(content["models"])),
            tuple(_task(entry, pairs) for entry in listed(content["tasks"])),
            tuple(method_spec(entry, sparsities, seeds) for entry in methods),
            tuple(listed(content.get("metrics", HEADLINE))),
            str(content.get("ablation", "interchange")),
            str(content.get("embeddings", "joint")),
            str(content.get("kv", "physical")),
            _yes_or_no("necessity", content.get("necessity", False)),
            _note(content.get("note")),
        )
        config._check()
        return config

    def _check(self) -> None:
        for what, given, choices in (
            ("metrics", self.metrics, metric_names()),
            ("ablation", (self.ablation,), ("interchange", "zero", "mean", "mean-positional")),
            ("embeddings", (self.embeddings,), get_args(Embeddings)),
            ("kv", (self.kv,), get_args(KeyValue)),
        ):
            if unknown := [each for each in given if each not in choices]:
                raise InputError(f"{what}: {unknown[0]!r} is unknown; choose {', '.join(choices)}")
        for what, names in (
            ("models", self.models),
            ("tasks", [task.name for task in self.tasks]),
            ("methods", [method.name for method in self.methods]),
        ):
            folders = [folder_name(name) for name in names]
            if again := [name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1]:
                raise InputError(f"{what}: two are called {again[0]!r}; give one of them another `name`")


def folder_name(name: str) -> str:
    """A name as one part of a path."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "-"


def _task(entry: Any, pairs: dict[str, Any]) -> TaskSpec:
    row = {"task": entry} if isinstance(entry, str) else dict(mapping("tasks", entry))
    name = str(row.pop("task", ""))
    drawn = name in TASK_NAMES or name.endswith(TEMPLATE_SUFFIXES)
    if not drawn and not name.endswith(SUFFIXES):
        raise InputError(
            f"tasks: {name!r} is unknown; choose {', '.join(TASK_NAMES)}, or a file of pairs or of templates"
        )
    label = str(row.pop("name", name if name in TASK_NAMES else Path(name).stem))
    return TaskSpec(label, name, pairs | row if drawn else {"seed": pairs["seed"]} | row)


def _known(what: str, row: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if unknown := [key for key in row if key not in keys]:
        raise InputError(f"{what}: there is no {unknown[0]!r}; use {', '.join(keys)}")


def _yes_or_no(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{what}: {str(value)[:60]!r}; write true or false")
    return value


def _note(value: Any) -> str:
    if not isinstance(value, str | None):
        raise InputError(f"note: {str(value)[:60]!r}; give a text")
    return " ".join((value or "").split())
