"""The settings of every method that learns by gradient descent (see `_configs`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from edgewise._errors import InputError
from edgewise.discovery._configs import MethodConfig
from edgewise.runs import AtLeast0, Bound, Count, NotNegative, Positive, known_settings

_BUDGET = 11  # the noise stream that draws the budgets
_COIN = 12  # the noise stream that says whether a step keeps or removes
_GOLDEN = (math.sqrt(5) - 1) / 2
_Share = Annotated[float, Bound(lambda x: 0 <= x <= 1, "a share of the steps, from 0 to 1")]


@dataclass(frozen=True, kw_only=True)
class LearnedConfig(MethodConfig):
    """Settings of a method that learns by gradient descent."""

    steps: Count = 300
    """Steps of gradient descent."""
    batch_size: Count = 16
    """Examples a step."""
    learning_rate: Positive = 0.05
    seed: int = 0
    """Of the examples' order and of whatever is drawn."""


@dataclass(frozen=True, kw_only=True)
class OptimalConfig(LearnedConfig):
    """Settings of optimal ablation for a fixed circuit."""

    title: ClassVar[str] = "optimal ablation"
    learning_rate: Positive = 2e-3  # Li & Janson 2024, section 4.2
    """Of Adam, in units of each writer's own spread; it falls linearly to 0."""


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(LearnedConfig):
    """Settings of a ranking that is learned by soft top-k masks at budgets drawn anew each step."""

    unit: ClassVar[str] = "edges"
    batch_size: Count = 8
    learning_rate: Positive = 0.05
    """Of Adam, on scores that start with standard deviation 1; it falls linearly to 0."""
    largest: float = 0.25
    """The largest budget, as a share of all edges."""
    smallest: float = 0.004
    """The smallest budget."""
    budgets: Literal["logarithmic", "uniform"] = "logarithmic"
    """How budgets are drawn between the two: evenly in their logarithm, which serves small circuits, or evenly, which
    serves areas over all sizes such as MIB's."""
    start_temperature: Positive = 0.3
    """Temperature of the soft top-k at the start, in units of the scores."""
    end_temperature: Positive = 0.05
    """Temperature at the end; it falls geometrically."""
    warm_examples: NotNegative = 64
    """Training examples for the attribution (mask-path IG by absolute effects) whose ranks the scores start from; 0 to
    start from noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.smallest <= self.largest <= 1:
            raise InputError(
                f"{self.title}: budgets from {self.smallest} to {self.largest}; they are shares of all {self.unit}, "
                "0 < smallest <= largest <= 1"
            )

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        return self.learning_rate * (1 - step / self.steps)

    def temperature(self, step: int) -> float:
        """The temperature at a step."""
        fall = self.end_temperature / self.start_temperature
        return self.start_temperature * fall ** (step / max(1, self.steps - 1))

    def budget(self, step: int, n: int) -> float:
        """The budget at a step, of `n` edges or writers: any few steps in a row cover the range evenly (Kronecker's
        sequence of the golden ratio from a random start), since steps of one size teach little about another.
        """
        from edgewise.runs import uniform  # which imports PyTorch

        draw = (float(uniform(1, self.seed, 0, _BUDGET)) + step * _GOLDEN) % 1
        if self.budgets == "uniform":
            return n * (self.smallest + draw * (self.largest - self.smallest))
        return n * math.exp(math.log(self.smallest) + draw * math.log(self.largest / self.smallest))


@dataclass(frozen=True, kw_only=True)
class RankingConfig(BudgetConfig):
    """Learn one score per edge such that the top k edges are a good circuit for every k."""

    title: ClassVar[str] = "ranking"
    steps: Count = 400
    """Steps of gradient descent; 400 take some 10 minutes for SmolLM2-135M on two cores, 100 do for a first look."""
    objective: Literal["loss", "metric"] = "loss"
    """What a step lowers: the task's loss (KL, unless a task says otherwise), or minus its metric, which pays for a
    circuit that does the behaviour more than the model (MIB's CPR counts that, its CMD counts it against). In place of
    a metric without a gradient stands what attribution explains, a logit difference or a log-probability."""
    decay: bool = True
    """Whether the learning rate falls to 0."""
    initial_spread: AtLeast0 = 1.0
    """Standard deviation of the scores' noise at the start, where they start from noise; 0 to start all alike."""
    warm_metric: Literal["loss", "metric"] = "loss"
    """What that attribution explains: what is learned by (KL, unless a task says otherwise), or the task's metric."""
    warm_points: Count = 5
    """Points of that attribution's path."""
    mask_margin: Annotated[float, Bound(lambda x: 0 <= x < 0.5, "a number from 0 to below 0.5")] = 0.02
    """Masks within this of 0 or 1 are taken as 0 or 1: they hardly have a gradient, and the engine skips what is 0."""
    joint: Annotated[float, Bound(lambda x: 0 <= x < 1, "a share of the steps, from 0 to below 1")] = 0.0
    """The share of the steps that *remove* the top edges and ask for the behaviour's absence, by a bounded loss
    (`presence`), so that the order says which edges are needed beside which suffice. Such a step runs nearly the whole
    graph, so it costs more than one that keeps few edges."""
    straight_through: _Share = 0.0
    """The share of the steps, the last ones, that run the hard circuit of the budget's size, with the soft mask's
    gradient (Bengio, Léonard & Courville 2013)."""
    patience: NotNegative = 0
    """Give the scores that were best on validation (hard circuits of three sizes), and stop after this many validations
    in a row that were not better; 0 for no validation."""
    validate_every: Count = 50
    """Steps between validations."""
    validation_examples: Count = 64
    """Validation pairs that are looked at."""

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        return super().rate(step) if self.decay else self.learning_rate

    def validated(self, n: int) -> int:
        """How many of `n` validation pairs are looked at."""
        return min(self.validation_examples, n) if self.patience else 0

    def is_hard(self, step: int) -> bool:
        """Whether a step runs hard circuits."""
        return step >= self.steps - round(self.steps * self.straight_through)

    def removes(self, step: int) -> bool:
        """Whether a step removes the top edges: a coin's flip, from seed and step alone."""
        from edgewise.runs import uniform  # which imports PyTorch

        return self.joint > 0 and float(uniform(1, self.seed, step, _COIN)) < self.joint


QUICK: dict[str, Any] = {"steps": 30, "warm_examples": 32}
"""A ranking for a first look."""
MIB: dict[str, Any] = {
    "objective": "metric",
    "budgets": "uniform",
    "smallest": 1e-4,
    "largest": 1.0,
    "start_temperature": 0.5,
    "end_temperature": 0.5,
    "warm_examples": 0,
    "initial_spread": 0.0,
    "mask_margin": 0.0,
}
"""A ranking for MIB's areas: Matryoshka Attribution's settings, with our steps of several pairs (it takes 5,000 of one)
and learning rates that fall. Scores that are nearly alike give small budgets' masks below any margin."""


@dataclass(frozen=True, kw_only=True)
class RankingEnsembleConfig(RankingConfig):
    """Learn several rankings, each from pairs drawn anew, and fuse them: what one gets wrong, others often do not."""

    title: ClassVar[str] = "ranking-ensemble"
    members: Count = 8
    """How many rankings."""
    steps: Count = 100
    """Of each ranking."""


@dataclass(frozen=True, kw_only=True)
class RefineConfig(RankingConfig):
    """Fit a ranking to one size by some more steps on hard circuits of that size.

    They are at half the learning rate, and from the ranking's last temperature to half of it.
    """

    title: ClassVar[str] = "refine"
    sparsity: Annotated[float, Bound(lambda x: 0 <= x < 1, "the share of all edges that is cut, in [0, 1)")] = 0.98
    """The size, 1 − actual edges / all edges."""
    steps: Count = 60
    learning_rate: Positive = 0.025
    start_temperature: Positive = 0.05
    end_temperature: Positive = 0.025
    straight_through: _Share = 1.0
    warm_examples: NotNegative = 0
    largest: float = 1.0
    """The largest budget, as a share of all edges; lowered to the size asked for."""
    smallest: float = 1.0
    """The smallest budget; lowered to the size asked for."""


@dataclass(frozen=True, kw_only=True)
class NodePruningConfig(BudgetConfig):
    """Learn a ranking of whole components, each with one mask for all that reads it."""

    title: ClassVar[str] = "node-pruning"
    unit: ClassVar[str] = "writers"
    steps: Count = 150
    largest: float = 0.5
    """The largest budget, as a share of all writers."""
    smallest: float = 0.02
    warm_examples: NotNegative = 64
    """Training examples for the attribution by absolute effects whose ranks the scores start from (`node_ig`, 5 points;
    `node_eap` where embeddings are no writers, mask-path IG where MLPs are taken apart); 0 to start all alike."""


PAPER: dict[str, Any] = {
    "steps": 3000,
    "batch_size": 32,
    "learning_rate": 0.8,
    "lr_warmup": 200,
    "sparsity_warmup": 2500,
    "schedule": "linear",
    "initial": 10.0,
    "initial_spread": 0.01,
    "weight_decay": 0.01,
    "clip": 1.0,
    "nodes": True,
    "expected": False,
    "dual": "ascent",
    "lambda_rate": 0.8,
    "budget": "threshold",
}
"""Edge Pruning's published settings for IOI on GPT-2 (`ioi_sweep.sh`)."""


@dataclass(frozen=True, kw_only=True)
class EdgePruningConfig(LearnedConfig):
    """Learn hard-concrete masks over all edges for a circuit of one size.

    The defaults are ours; `paper` gives the published ones.
    """

    title: ClassVar[str] = "edge pruning"
    sparsity: float = 0.98
    """Ours: what the circuit will have, in actual edges. Paper: the target of the Lagrangian, which is not met exactly;
    it may exceed 1."""
    steps: Count = 240
    """Steps of gradient descent. On the command line and in benches, other steps keep the warm-ups' shares."""
    learning_rate: Positive = 0.4
    """Of the masks' log α. (Paper: 0.8.)"""
    lr_warmup: NotNegative = 10
    """Steps of linear warm-up, before a linear decay to 0."""
    sparsity_warmup: NotNegative = 160
    """Steps until the target sparsity is reached. (Paper: 2,500.)"""
    schedule: Literal["linear", "logarithmic"] = "logarithmic"
    """Of the target: linear in the sparsity (paper), or in the logarithm of the edges kept."""
    initial: float = 2.0
    """log α at the start. (Paper: 10, where a mask is fractional once in 3,000 draws and hardly anything has a
    gradient.)"""
    initial_spread: float = 0.01
    """Standard deviation of log α at the start."""
    warm_start: float = 0.0
    """Add this much times the normal scores of the ranks of mask-path IG by absolute effects, or of the scores to start
    from, to log α at the start; 0 for none, as in the paper."""
    weight_decay: float = 0.0
    """On log α. (Paper: AdamW's default 0.01, which at its learning rates pulls masks without gradient to 0.5.)"""
    clip: float | None = None
    """Largest norm of all gradients together. (Paper: 1.)"""
    nodes: bool = False
    """Also learn a mask per writer that multiplies its outgoing edges' (paper)."""
    node_sparsity: float | None = None
    """Target for the writers' masks; none leaves their sparsity free, as the paper's scripts do."""
    expected: bool = True
    """Count the edges by the closed-form probability that a mask is not 0, not by the sampled masks (paper)."""
    dual: Literal["exact", "ascent"] = "exact"
    """`exact`: after each step shift all log α by one number so that the expected edges are what the schedule asks (the
    multiplier of the constraint, solved for instead of learned). `ascent`: multipliers learned by gradient ascent
    (paper)."""
    lambda_rate: float = 0.8
    """Learning rate of the multipliers under `ascent`."""
    budget: Literal["exact", "threshold"] = "exact"
    """The circuit at the end: as many *actual* edges as asked for, or as many as the masks amount to (paper)."""

    @staticmethod
    def paper(**changes: Any) -> "EdgePruningConfig":
        """The published settings for IOI on GPT-2 (`ioi_sweep.sh`)."""
        return replace(EdgePruningConfig(**PAPER), **changes)

    @classmethod
    def of(cls, preset: Mapping[str, Any], changes: Mapping[str, Any]) -> "EdgePruningConfig":
        """As `MethodConfig.of`; where only `steps` is changed, the warm-ups keep their shares of the run."""
        published, scaled = super().of(preset, {}), dict(changes)
        known_settings(cls.title, cls, changes)
        steps = changes.get("steps")
        if isinstance(steps, int):
            for name in ("lr_warmup", "sparsity_warmup"):
                scaled.setdefault(name, round(getattr(published, name) * steps / published.steps))
        return super().of(preset, scaled)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "exact" in (self.dual, self.budget) and not 0 < self.sparsity < 1:
            raise InputError(
                f"sparsity {self.sparsity}: it is 1 − kept edges / all edges, so between 0 and 1; "
                "0.98 keeps 2 % of the edges"
            )
        if not 0 <= self.sparsity < math.inf:
            raise InputError(
                f"edge pruning: sparsity {self.sparsity}; the Lagrangian's target is a number of at least 0"
            )
        if self.schedule == "logarithmic" and self.sparsity >= 1:
            raise InputError(
                f"edge pruning: a logarithmic schedule never reaches sparsity {self.sparsity}; use 'linear'"
            )
        if self.node_sparsity is not None and not self.sparsity:
            raise InputError(
                "edge pruning: node_sparsity rises with the edges' target, which is 0; give it one above 0"
            )
        if self.node_sparsity is not None and not self.nodes:
            raise InputError("edge pruning: node_sparsity is the writers' masks' target; it wants nodes=True")
        if self.weight_decay < 0 or (self.clip is not None and not self.clip > 0):
            given = f"weight_decay {self.weight_decay}, clip {self.clip}"
            raise InputError(f"edge pruning: {given}; the first is at least 0, the second above 0 or none")
        if self.dual == "exact" and self.nodes:
            raise InputError("edge pruning: dual='exact' works on edges alone; use dual='ascent' with node masks")

    def target(self, step: int) -> float:
        """The target sparsity at a step."""
        progress = min(step / self.sparsity_warmup, 1.0) if self.sparsity_warmup else 1.0
        least = 1 - self.sparsity
        if self.schedule == "linear":
            return 1 - (1.0 + (least - 1.0) * progress)
        return 1 - least**progress

    def rate(self, step: int) -> float:
        """What the learning rates are multiplied by at a step: linear warm-up, then linear decay to 0."""
        if step < self.lr_warmup:
            return step / self.lr_warmup
        return max(0.0, (self.steps - step) / max(1, self.steps - self.lr_warmup))
