"""Where scores and circuits come from, as plain values for a file's header."""

import hashlib
from importlib.metadata import version
from typing import Any

from edgewise.discovery._cost import Cost
from edgewise.engine import Engine
from edgewise.tasks import Task, pairs_hash, score_name


def provenance(engine: Engine, task: Task, method: dict[str, Any], cost: Cost | None = None) -> dict[str, Any]:
    """Model, ablation, task, method and software, enough to do it again; and what it cost, where that was counted."""
    found = {
        "model": engine.model.identity,
        "graph": engine.graph.spec.to_dict(),
        "ablation": engine.ablation.to_dict(),
        "engine": {
            "memory": engine.memory,
            "dtype": None if engine.dtype is None else str(engine.dtype),
            "matmul": engine.matmul,
        },
        "task": dict(task.provenance)
        | {"name": task.name, "loss": score_name(task.loss), "metric": score_name(task.metric)},
        "method": method,
        "software": {name: version(name) for name in ("edgewise", "torch", "transformers")},
    }
    if engine.features:
        found["transcoders"] = engine.transcoder_identity
    return found if cost is None else found | {"cost": cost.record()}


def run_settings(engine: Engine, task: Task, method: str, config: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's numbers: a checkpoint of other settings is of another run."""
    task.check_spans(engine.graph)
    constants = () if engine.constants is None else engine.constants.tensors()
    identity = {
        "method": method,
        "pairs": pairs_hash(task.train),
        "functions": [_code(task.loss), _code(task.metric)],
        "cache_bytes": engine.cache_bytes,
        "constants": hashlib.sha256(b"".join(x.detach().cpu().numpy().tobytes() for x in constants)).hexdigest(),
    }
    return provenance(engine, task, {}) | identity | config


def _code(score: Any) -> str:
    """What tells two functions of one name apart: a hash of their code."""
    code = getattr(score, "__code__", None)
    return "" if code is None else hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()
