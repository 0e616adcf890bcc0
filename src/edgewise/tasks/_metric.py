"""What is known of each loss and metric, in one record per name. Nothing here needs PyTorch until a metric is called.

`register_metric` adds one of your own; its name then serves wherever ours do: as a task's loss or metric, in
`evaluate`, in a bench.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgewise._errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from edgewise.tasks._pairs import Batch

    Score: TypeAlias = Callable[[Tensor, Batch], Tensor]
    """(logits `[A, V]` at the targets, batch) -> one value per target `[A]`."""
else:
    Score: TypeAlias = Callable[..., Any]

Kind = Literal["loss", "metric"]


@dataclass(frozen=True)
class Metric:
    """A loss or a metric: a function of the logits at a batch's targets, and all that is known of it."""

    name: str
    function: Score
    """(logits `[A, V]` at the targets, batch) -> one value per target `[A]`."""
    unit: str = ""
    lower_is_better: bool = False
    needs: Literal["answers", "wrong answers", "sets", "outputs"] = "answers"
    """What a task must have for it: `sets` of right and wrong answers; `outputs` that are numbers, not logits."""
    needs_full_model: bool = True
    """It compares with the full model: it looks at `batch.full_logits`."""
    distance: bool = False
    """It is 0 at the full model and more elsewhere, so its gradient there is 0, and attribution at the full model has
    nothing to explain (`Task.explained` then names another)."""
    differentiable: bool = True
    kinds: tuple[Kind, ...] = ("loss", "metric")
    """What its name may stand for. As a loss, a metric of which more is better has its sign turned."""
    reported: bool = False
    """Evaluation reports it of every task that has what it needs."""
    several_circuits: bool = False
    """The function takes any leading dimensions of the logits; one that does not is called circuit by circuit."""

    @property
    def sign(self) -> int:
        """1 where more is better, −1 where less is."""
        return -1 if self.lower_is_better else 1

    @property
    def as_loss(self) -> "Metric":
        """The same to be lowered."""
        if self.lower_is_better:
            return self
        return replace(self, function=lambda logits, batch: -self.function(logits, batch), lower_is_better=True)

    def __call__(self, logits: "Tensor", batch: "Batch") -> "Tensor":
        """One value per target.

        Args:
            logits: at the batch's targets, `[*C, A, V]` (several circuits' in one pass).
            batch: the examples, with `full_logits` if it needs the full model.

        Returns:
            `[*C, A]`, in float32 at least where the function is one of ours.

        Raises:
            InputError: the function does not give one value per target, or does not find what it needs in the batch.
        """
        if self.several_circuits:
            return self.function(logits, batch)
        if logits.ndim > 2:
            from torch import stack

            return stack([self(each, batch) for each in logits])
        values, wanted = self.function(logits, batch), tuple(batch.row.shape)
        found = tuple(values.shape) if hasattr(values, "shape") else None
        if found != wanted:
            gave = f"a {type(values).__name__}" if found is None else f"shape {found}"
            raise InputError(f"metric {self.name}: gave {gave}; must give one value per target, shape {wanted}")
        return values


def metric_function(metric: "str | Score") -> Metric:
    """The metric of that name, or a record of the user's own callable, of which more is better.

    Raises:
        InputError: there is no such metric.
    """
    return _resolve(metric, "metric")


def loss_function(loss: "str | Score") -> Metric:
    """The loss of that name, or a record of the user's own callable. Less of it is better.

    Raises:
        InputError: there is no such loss.
    """
    return _resolve(loss, "loss")


def register_metric(metric: Metric) -> Metric:
    """Make a metric of yours known by its name.

    Raises:
        InputError: the name is taken.
    """
    if metric.name in _METRICS:
        raise InputError(f"metric {metric.name!r}: that name is taken; choose another")
    _METRICS[metric.name] = metric
    return metric


def metric_names(kind: Kind = "metric") -> tuple[str, ...]:
    """The names of all metrics, or of all losses."""
    return tuple(name for name, metric in _METRICS.items() if kind in metric.kinds)


def score_name(score: "str | Score") -> str:
    """What a loss or metric is called in results: its name, or that of the user's function, with `custom:` before it
    where it is also the name of one of ours.
    """
    if isinstance(score, str | Metric):
        return score if isinstance(score, str) else score.name
    name = getattr(score, "__qualname__", type(score).__qualname__)
    return f"custom:{name}" if name in _METRICS else name


def _resolve(score: "str | Score", kind: Kind) -> Metric:
    if isinstance(score, str) and score in metric_names(kind):
        score = _METRICS[score]
    elif isinstance(score, str) or not callable(score):
        given = f"there is no {score!r}" if isinstance(score, str) else f"{score!r} is no {kind}"
        raise InputError(f"{kind}: {given}; choose {', '.join(metric_names(kind))} or a callable of (logits, batch)")
    if isinstance(score, Metric):
        return score.as_loss if kind == "loss" else score
    return Metric(score_name(score), score, lower_is_better=kind == "loss")


# ---------------------------------------------------------------------------------------------------------------- ours


def _of_ours(module: str, name: str) -> Score:
    """A function of this room, imported when it is first called."""

    def call(logits: "Tensor", batch: "Batch") -> "Tensor":
        from importlib import import_module

        return getattr(import_module(f"edgewise.tasks.{module}"), name)(logits, batch)

    return call


def _ours(name: str, function: str = "", module: str = "_metrics", **known: Any) -> Metric:
    return Metric(name, _of_ours(module, function or name), several_circuits=True, **known)


def _further(name: str, **known: Any) -> Metric:
    return _ours(name, module="_distances", kinds=_METRIC, **known)


_METRIC: tuple[Kind, ...] = ("metric",)
_LOSS: tuple[Kind, ...] = ("loss",)
_WRONG = "wrong answers"
_SHARE = "share of targets"
_NATS = "nats, whole vocabulary"

_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _ours(
            "logit_diff", unit="logits, answer minus wrong answer", needs=_WRONG, needs_full_model=False, reported=True
        ),
        _ours("log_prob", unit=_NATS, needs_full_model=False, kinds=_METRIC, reported=True),
        _ours("presence", unit="0 to 1", needs_full_model=False, kinds=_METRIC),
        _ours("accuracy", unit=_SHARE, needs_full_model=False, differentiable=False, kinds=_METRIC, reported=True),
        _ours("exact_match", unit=_SHARE, differentiable=False, kinds=_METRIC, reported=True),
        _ours("kl", unit=f"{_NATS}, KL(full ‖ circuit)", lower_is_better=True, distance=True, reported=True),
        _ours("cross_entropy", unit=_NATS, lower_is_better=True, needs_full_model=False, kinds=_LOSS),
        _ours("choice", unit=_SHARE, needs=_WRONG, needs_full_model=False, differentiable=False, kinds=_METRIC),
        _ours("prob_diff", unit="probability", needs="sets", needs_full_model=False, kinds=_METRIC, reported=True),
        _ours("prob_diff_10", unit="probability", needs="sets", needs_full_model=False, kinds=_METRIC, reported=True),
        _further("reverse_kl", unit=f"{_NATS}, KL(circuit ‖ full)", lower_is_better=True, distance=True),
        _further("js", unit=_NATS, lower_is_better=True, distance=True),
        _further("logit_l2", unit="logits", lower_is_better=True, distance=True),
        _further("kendall_tau", unit="−1 to 1", differentiable=False),
        _further("answers_tau", unit="−1 to 1", differentiable=False),
        _ours("l2", "squared_distance", unit="squared output", needs="outputs", lower_is_better=True, distance=True),
        _ours("mismatch", unit="0 to 1", needs="outputs", lower_is_better=True, distance=True, kinds=_LOSS),
        _ours("close", unit=_SHARE, needs="outputs", differentiable=False, kinds=_METRIC),
        _ours("value", unit="first output", needs="outputs", needs_full_model=False, kinds=_METRIC),
    )
}
"""Every metric and loss, in the order in which they are reported."""

HEADLINE = ("kl", "logit_diff", "accuracy", "exact_match")
"""The metrics of tables with little room."""
