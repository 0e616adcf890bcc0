"""Running a method of the catalogue by its record."""

from dataclasses import replace
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery._configs import AttributionConfig, MethodConfig
from edgewise.discovery._methods import Method
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.runs import RunOptions
from edgewise.tasks import Task


def run_method(
    method: Method,
    engine: Engine,
    task: Task,
    config: MethodConfig,
    *,
    options: RunOptions | None = None,
    start: Scores | None = None,
) -> Scores | Circuit:
    """Run a method as the command line and benches do.

    Where a method takes gradients of the task's metric and there are none, `Task.explained` is explained instead.

    Args:
        method: its record.
        engine: model, graph and ablation.
        task: the behaviour.
        config: the method's settings.
        options: checkpoints and progress, for methods that resume.
        start: scores to start from, for methods that may.

    Raises:
        edgewise.InputError: the method needs scores to start from or takes none, or as the method does.
    """
    if start is None and method.start == "must":
        raise InputError(f"{method.name}: it starts from scores; give some")
    if start is not None and method.start == "no":
        raise InputError(f"{method.name}: it takes no scores to start from; leave them out")
    if method.gradient_at is not None and isinstance(config, AttributionConfig) and config.explains is None:
        explained = task.explainable(at_full_model=method.gradient_at == "full")
        config = config if explained is task else replace(config, explains=explained.metric)
    given: dict[str, Any] = {"options": options} if method.resumes else {}
    if start is not None:
        given["start"] = start
    return method.function()(engine, task, config, **given)
