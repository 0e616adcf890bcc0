"""The settings of every method: one frozen dataclass each. Its documented fields are what Python, the command line and
benches offer, under the same names.

Nothing here imports PyTorch, so that a wrong setting is refused before anything is loaded.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from edgewise._errors import InputError
from edgewise.runs import Bound, Count, change_settings, check_settings, known_settings
from edgewise.tasks import SPLITS, loss_function, metric_function, score_name

Config = TypeVar("Config", bound="MethodConfig")
Quadrature = Literal["gauss-legendre", "left", "right", "midpoint", "trapezoid"]
"""How an integral over a path is taken from a few of its points."""
Average = Literal["signed", "absolute"]
"""Whether effects are averaged over the examples, or their sizes."""
Rule = Literal["norm", "attention", "activation", "gate"]
RULES: tuple[Rule, ...] = ("norm", "attention", "activation", "gate")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What all settings of methods share: they check themselves and are recorded in what they led to."""

    title: ClassVar[str] = "method"
    """What error messages call the method."""

    def __post_init__(self) -> None:
        check_settings(self.title, self)

    @classmethod
    def of(cls: type[Config], preset: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
        """A preset with settings changed, as the command line and benches make it.

        Raises:
            InputError: there is no such setting, or its value is wrong.
        """
        known_settings(cls.title, cls, changes)
        return cls(**{**preset, **changes})

    @property
    def seeded(self) -> bool:
        """Whether another seed gives another result."""
        return hasattr(self, "seed")

    @property
    def recorded_name(self) -> str:
        """The method's name in the catalogue, as a result's provenance has it."""
        return self.title

    def record(self) -> dict[str, Any]:
        """As plain values, for a result's provenance; a function goes by its name."""
        own: dict[str, Any] = vars(self)
        return asdict(self) | {name: score_name(own[name]) for name in own if callable(own[name])}


def configured(make: type[Config], config: Config | None, changes: Mapping[str, Any]) -> Config:
    """What a method was given: its settings, the defaults if None, with some changed. Raises `InputError`."""
    if config is not None and not isinstance(config, make):
        raise InputError(f"{make.title}: config is a {type(config).__name__}; give a {make.__name__}")
    if config is None:
        known_settings(make.title, make, changes)
        return make(**changes)
    return change_settings(make.title, config, changes)


def check_points(title: str, points: int, kind: Quadrature) -> None:
    """Refuse fewer points than a kind of quadrature has. Raises `InputError`."""
    least = 2 if kind == "trapezoid" else 1
    if points < least:
        raise InputError(f"{title}: points={points}; {kind} needs at least {least}")


# -------------------------------------------------------------------------------------------- methods without learning


@dataclass(frozen=True, kw_only=True)
class RandomConfig(MethodConfig):
    """Uniform scores from the seed: what a circuit has to beat."""

    title: ClassVar[str] = "random"
    seed: int = 0
    """Of the scores."""


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig(MethodConfig):
    """Settings of a method that runs a task's examples once."""

    split: str = "train"
    """Which examples."""
    batch_size: Count = 32
    """How many examples at a time; it does not change the scores."""
    pairs: Count | None = None
    """Only so many pairs of the split, the first; none for all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in SPLITS:
            raise InputError(f"{self.title}: there is no split {self.split!r}; use {', '.join(SPLITS)}")


@dataclass(frozen=True, kw_only=True)
class AttributionConfig(ExamplesConfig):
    """Settings of a method that explains a metric."""

    explains: str | Callable[..., Any] | None = None
    """The metric to explain in place of the task's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.explains is not None:
            metric_function(self.explains)


@dataclass(frozen=True, kw_only=True)
class AveragedConfig(AttributionConfig):
    """Settings of a method that averages the examples' effects."""

    average: Average = "signed"
    """`signed`: the mean effect. `absolute`: the mean size of the effects, which do not cancel where an edge helps in
    one example and hurts in another; such scores have no sign, and do not add up to the whole effect."""


@dataclass(frozen=True, kw_only=True)
class AttributionGraphConfig(ExamplesConfig):
    """Rank edges by their mean influence in the attribution graphs of training prompts."""

    title: ClassVar[str] = "attribution-graph"
    pairs: Count | None = 16
    """How many prompts, the first of the split; each has a graph of its own."""
    max_nodes: Count = 500
    """How many neurons or features get rows in each graph, the most influential first."""
    top_edges: Count = 2000
    """How many edges of each graph count, the most influential."""
    queries_and_keys: Literal["eap", "none"] = "eap"
    """Attribution graphs hold attention patterns fixed: edges into queries and keys get the influence that goes through
    their head, shared out by EAP, or nothing."""


@dataclass(frozen=True, kw_only=True)
class PathConfig(AveragedConfig):
    """Settings of a method that averages gradients along a path."""

    points: int = 5
    """Quadrature points, m."""
    quadrature: Quadrature = "gauss-legendre"
    """Where the points lie and what they weigh; `left` is EAP-IG's own grid for edges along the input, `right` along
    activations and for nodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_points(self.title, self.points, self.quadrature)


@dataclass(frozen=True, kw_only=True)
class EapConfig(AveragedConfig):
    """Edge attribution patching: the mask gradient at the full model."""

    title: ClassVar[str] = "eap"
    qk_fix: bool = False
    """For edges into queries and keys, run the head's norm, projection and softmax without the edge as they are, and
    take its output's effect alone as linear (AtP*'s fix, for single edges). It takes each writer through the queries'
    and keys' projections of every later layer."""


@dataclass(frozen=True, kw_only=True)
class EapIgConfig(PathConfig):
    """EAP with gradients averaged along the input path."""

    title: ClassVar[str] = "eap-ig"
    path: Literal["inputs", "activations"] = "inputs"
    """`inputs`: the embeddings move from ablated to clean and all else follows. `activations`: one component's output
    at a time (the embeddings, a layer's attention, an MLP), and the path explains that component's outgoing edges
    alone. (The reference implementation lets every component's path count for every edge.)"""
    heads: Literal["together", "apart"] = "together"
    """For `activations`, whether a layer's heads move together, in 2L + 1 paths, or each on its own."""

    @property
    def recorded_name(self) -> str:
        """By its path."""
        return "eap-ig" if self.path == "inputs" else "eap-ig-activations"


@dataclass(frozen=True, kw_only=True)
class EapIgActivationsConfig(EapIgConfig):
    """EAP with gradients averaged along the path of each component's own output."""

    title: ClassVar[str] = "eap-ig-activations"
    path: Literal["inputs", "activations"] = "activations"


@dataclass(frozen=True, kw_only=True)
class MaskIgConfig(PathConfig):
    """The mask gradient averaged over masks from 0 to 1."""

    title: ClassVar[str] = "mask-ig"


@dataclass(frozen=True, kw_only=True)
class RelevanceConfig(AveragedConfig):
    """EAP with relevance propagation's rules for going backwards."""

    title: ClassVar[str] = "relevance"
    rules: tuple[str, ...] = RULES
    """Which of norm, attention, activation and gate to apply; with none it is EAP. With `attention`, edges into queries
    and keys score 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(set(self.rules) - set(RULES)):
            raise InputError(f"relevance: there is no rule {unknown[0]!r}; choose among {', '.join(RULES)}")


@dataclass(frozen=True, kw_only=True)
class NodeEapConfig(AveragedConfig):
    """The first-order effect of ablating each component, for all that read it at once."""

    title: ClassVar[str] = "node-eap"


@dataclass(frozen=True, kw_only=True)
class NodeIgConfig(PathConfig):
    """The effect of ablating each component with gradients averaged along the input path.

    It is said to need more points than that of edges, some 10 to 30.
    """

    title: ClassVar[str] = "node-ig"


@dataclass(frozen=True, kw_only=True)
class AtpStarConfig(AttributionConfig):
    """Attribution of components with its two failures mended."""

    title: ClassVar[str] = "atp-star"
    graddrop: bool = True
    """Average absolute effects over L blocked gradients, example by example, for L backward passes; the scores have no
    sign then. False: the signed effect by one backward, with the QK fix."""
    keys: Literal["together", "apart"] = "together"
    """Patch a head's keys at all positions `together`, which is what ablating the edges into the key does, or each
    position's `apart`, and sum (the paper's nodes are single positions)."""


@dataclass(frozen=True, kw_only=True)
class InformationFlowConfig(ExamplesConfig):
    """How much of each reader's input each writer makes up."""

    title: ClassVar[str] = "information-flow"


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(PathConfig):
    """Several methods' ranks, fused.

    Settings of attribution go to every member that has them, where they are changed.
    """

    title: ClassVar[str] = "ensemble"
    methods: tuple[str, ...] = ("eap-ig", "mask-ig", "relevance")
    """Whose ranks are fused: methods that give scores without learning."""
    weights: tuple[float, ...] | None = None
    """One for each method, none below 0 and not all 0; none for all equal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is None:
            return
        if len(self.weights) != len(self.methods) or min(self.weights, default=-1) < 0 or not sum(self.weights):
            given, n = ", ".join(map(str, self.weights)) or "none", len(self.methods)
            raise InputError(
                f"ensemble: weights {given} for {n} methods; give one for each, none below 0 and not all 0"
            )


# ----------------------------------------------------------------------------------------------------------- searches


@dataclass(frozen=True, kw_only=True)
class ExactPatchingConfig(AttributionConfig):
    """Every edge's own effect, by running the model without it."""

    title: ClassVar[str] = "exact-patching"
    batch_size: Count = 16
    pairs: Count | None = 16
    max_edges: int = 100_000
    """Refuse to patch more edges than this."""


@dataclass(frozen=True, kw_only=True)
class AcdcConfig(ExamplesConfig):
    """Cut every edge whose removal raises the loss by less than a threshold, from the output back."""

    title: ClassVar[str] = "acdc"
    batch_size: Count = 16
    """How many pairs are held in one piece."""
    pairs: Count | None = 16
    threshold: Annotated[float, Bound(math.isfinite, "a finite number")] = 0.01
    """τ: cut what raises the loss by less. It decides the circuit's size."""
    loss: str | Callable[..., Any] | None = None
    """`kl`, `logit_diff` (its fall), `l2` of the outputs, …, lower being better; the task's if none."""
    absolute: bool = False
    """Compare the change's absolute value with τ, so that edges whose loss would fall are kept too."""
    order: Literal["descending", "ascending", "random"] = "descending"
    """In which order a reader's writers are tried: from the latest, from the first, or at random."""
    seed: int = 0
    """Of the random order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss is not None:
            loss_function(self.loss)

    @property
    def seeded(self) -> bool:
        """Only a random order has a seed."""
        return self.order == "random"
