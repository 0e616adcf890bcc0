"""What every attribution method's function shares: its arguments, their documentation, and the record of its scores."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from edgewise.discovery._configs import ExamplesConfig, MethodConfig, configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import asked_of
from edgewise.discovery._provenance import method_record, provenance
from edgewise.discovery._scores import Scores, check_values
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.tasks import Task

Config = TypeVar("Config", bound=MethodConfig)
Settings = TypeVar("Settings", bound=MethodConfig, contravariant=True)
_ARGUMENTS = """\
    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained, where the method explains one.
        config: the settings.
        **changes: fields of `{config}` to change.

    Returns:"""


@runtime_checkable
class Attribution(Protocol[Settings]):
    """A method of attribution, as it is called."""

    def __call__(self, model: Model | Engine, task: Task, config: Settings | None = None, **changes: Any) -> Scores:
        """Score the edges."""
        ...


def attribution(
    make: type[Config],
) -> Callable[[Callable[[Engine, Task, Config, Cost], Tensor | tuple[Tensor, ...]]], Attribution[Config]]:
    """Make a method's function of what finds its scores.

    That is given the engine, the task with the pairs and the metric that the settings ask for, the settings and a tally
    of passes. It gives the edges' scores, or with them the writers' and then the readers'. Its docstring is completed
    by the arguments, which are the same for every method.
    """

    def of(score: Callable[[Engine, Task, Config, Cost], Tensor | tuple[Tensor, ...]]) -> Attribution[Config]:
        def run(model: Model | Engine, task: Task, config: Config | None = None, **changes: Any) -> Scores:
            chosen, engine, cost = configured(make, config, changes), Engine.of(model), Cost()
            found = score(engine, asked_of(task, chosen) if isinstance(chosen, ExamplesConfig) else task, chosen, cost)
            values, *ends = found if isinstance(found, tuple) else (found,)
            check_values(chosen.title, values)
            said = provenance(engine, task, method_record(chosen.recorded_name, chosen), cost)
            return Scores(engine.graph, values, said, **dict(zip(("writers", "readers"), ends, strict=False)))

        run.__annotations__["config"] = make | None
        run.__module__, run.__name__, run.__qualname__ = score.__module__, score.__name__, score.__qualname__
        run.__doc__ = (score.__doc__ or "").replace("    Returns:", _ARGUMENTS.format(config=make.__name__), 1)
        return run

    return of
