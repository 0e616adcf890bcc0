"""Where scores and circuits come from, as plain values for a file's header."""

import hashlib
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from edgewise.discovery._configs import MethodConfig
from edgewise.discovery._cost import Cost
from edgewise.engine import Engine
from edgewise.runs import software, tensor_hash
from edgewise.tasks import Task, pairs_hash, score_name


def provenance(engine: Engine, task: Task, method: dict[str, Any], cost: Cost | None = None) -> dict[str, Any]:
    """Model, ablation, task, method and software, enough to do it again; and what it cost, where that was counted."""
    found = {
        "model": engine.model.identity,
        "graph": engine.graph.spec.to_dict(),
        "ablation": engine.ablation.to_dict(),
        "engine": {
            "memory": engine.execution.memory,
            "dtype": None if engine.execution.dtype is None else str(engine.execution.dtype),
            "matmul": engine.execution.matmul,
        },
        "task": task.record | {"loss": score_name(task.loss), "metric": score_name(task.metric)},
        "method": method,
        "software": software(),
    }
    if engine.features:
        found["transcoders"] = engine.transcoder_identity
    return found if cost is None else found | {"cost": cost.record()}


def method_record(name: str, config: MethodConfig, **more: Any) -> dict[str, Any]:
    """What a result says of its method: its name in the catalogue and all settings."""
    return {"name": name, "config": config.record(), **more}


def run_settings(engine: Engine, task: Task, method: str, config: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's numbers: a checkpoint of other settings is of another run."""
    task.check_spans(engine.graph)
    identity = {
        "method": method,
        "pairs": pairs_hash(task.train),
        "functions": [score_code(task.loss), score_code(task.metric)],
        "cache_bytes": engine.execution.cache_bytes,
        "constants": engine.constants_hash,
    }
    return provenance(engine, task, {}) | identity | config


def score_code(score: Any) -> str:
    """What tells two functions of one name apart: a hash of their code and of the values that they hold. Functions that
    they call by a global name are told apart by that name alone.
    """
    return "" if isinstance(score, str) else hashlib.sha256(repr(_parts(score, ())).encode()).hexdigest()


def _parts(value: Any, above: tuple[int, ...]) -> Any:
    """A value as nested plain values that are the same in every process: no addresses, no order of sets."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if id(value) in above or isinstance(value, (ModuleType, torch.nn.Module)):
        return type(value).__qualname__
    above = (*above, id(value))

    def inner(*values: Any) -> list[Any]:
        return [_parts(each, above) for each in values]

    if isinstance(value, CodeType):
        return [value.co_code.hex(), list(value.co_names), *inner(*value.co_consts)]
    if isinstance(value, partial):
        return ["partial", *inner(value.func, value.args, value.keywords)]
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return inner(value.__code__, value.__defaults__, value.__kwdefaults__, held)
    if isinstance(value, MethodType):
        return inner(value.__func__, value.__self__)
    if isinstance(value, (list, tuple)):
        return inner(*value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, inner(*value)))
    if isinstance(value, dict):
        return sorted((repr(_parts(key, above)), repr(_parts(each, above))) for key, each in value.items())
    if isinstance(value, torch.Tensor):
        return [list(value.shape), tensor_hash(value)]
    return [type(value).__qualname__, *inner(vars(type(value)).get("__call__"), getattr(value, "__dict__", None))]
