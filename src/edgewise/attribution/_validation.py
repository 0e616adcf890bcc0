"""What a validation found: its figures, its table, its file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from edgewise.attribution._effects import agreement, over_nodes
from edgewise.attribution._influence import GraphScores
from edgewise.runs import Interval, SavedAsJson, bootstrap


class NodeEffect(NamedTuple):
    """One node ablated; changes of the root's value."""

    name: str
    influence: float
    direct: float
    """Predicted from its edge to the root alone."""
    predicted: float
    """Predicted from all paths."""
    real: float


class SetEffect(NamedTuple):
    """A set of nodes ablated at once."""

    value: float
    """The root's."""
    probability: float | None
    """Of the root's token; None where the root is not one token's logit."""
    share: float
    """Necessity: the share of the root's own value that is lost. Sufficiency: the share that is kept. Outside of 0 to 1
    where the value grows or changes its sign."""
    random: tuple[float, ...]
    """The same of random sets with as many nodes in every layer."""


class Threshold(NamedTuple):
    """The graph pruned at another threshold."""

    nodes: float
    size: int
    """How many neurons or features stay."""
    jaccard: float
    """Those common with the pruned graph, of those in either."""


class PromptValidation(NamedTuple):
    """One prompt's."""

    tokens: tuple[str, ...]
    root: str
    value: float
    """The root's, of the model as it is."""
    probability: float | None
    ablated_value: float
    """With all active nodes ablated: embeddings, errors, biases and attention are left."""
    ablated_probability: float | None
    n_active: int
    """Nodes that the prompt turns on."""
    n_graph: int
    """Those in the graph."""
    n_pruned: int
    """Those in the pruned graph."""
    ablations: tuple[NodeEffect, ...]
    necessity: SetEffect
    sufficiency: SetEffect
    scores: GraphScores
    pruned_scores: GraphScores
    """With what the removed nodes gave moved to their layer's errors."""
    residual: float
    """The ledger's largest, relative."""
    outside: float
    """The share of all edges' sizes that is not in the graph."""
    stability: tuple[Threshold, ...]


class Figure(NamedTuple):
    """A mean over prompts and its interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return "–" if self.value is None else f"{Interval(self.value, self.low, self.high):.2f}"


@dataclass(frozen=True)
class Validation(SavedAsJson):
    """How far graphs agree with their model. Intervals are 95 % percentile bootstraps: over prompts, or, of one prompt,
    over its nodes.
    """

    n: int
    """How many prompts."""
    spearman: Figure
    """Correlation of the ranks of predicted and real changes."""
    spearman_direct: Figure
    """The same with direct edges alone."""
    spearman_later: Figure
    """With all paths, of nodes that are not at the first token, where most models put what they look away from."""
    slope: Figure
    """Of the line through the origin, real = slope · predicted."""
    necessity: Figure
    random_necessity: Figure
    """Mean over the random sets."""
    sufficiency: Figure
    random_sufficiency: Figure
    scores: dict[str, Figure]
    """Replacement and completeness of the graph, and of the pruned one."""
    residual: float
    """The largest."""
    outside: Figure
    prompts: tuple[PromptValidation, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(found: Sequence[PromptValidation], settings: dict[str, Any], provenance: dict[str, Any]) -> "Validation":
        """From what each prompt says."""

        def mean(of: Callable[[PromptValidation], float | None]) -> Figure:
            values = [value for each in found if (value := of(each)) is not None]
            return Figure(*bootstrap(np.array(values), seed=settings["seed"])) if values else Figure(None)

        def agree(name: str, which: int, later: bool = False) -> Figure:
            pairs = [_columns(each, name, later) for each in found]
            if len(found) == 1:
                one = over_nodes(*pairs[0], settings["seed"])[which]
                return Figure(None) if one is None else Figure(*one)
            each_one = dict(zip(map(id, found), (agreement(*pair)[which] for pair in pairs), strict=True))
            return mean(lambda each: each_one[id(each)])

        return Validation(
            len(found),
            agree("predicted", 0),
            agree("direct", 0),
            agree("predicted", 0, later=True),
            agree("predicted", 1),
            mean(lambda each: each.necessity.share),
            mean(lambda each: float(np.mean(each.necessity.random))),
            mean(lambda each: each.sufficiency.share),
            mean(lambda each: float(np.mean(each.sufficiency.random))),
            {
                "replacement": mean(lambda each: each.scores.replacement),
                "completeness": mean(lambda each: each.scores.completeness),
                "pruned replacement": mean(lambda each: each.pruned_scores.replacement),
                "pruned completeness": mean(lambda each: each.pruned_scores.completeness),
            },
            max(each.residual for each in found),
            mean(lambda each: each.outside),
            tuple(found),
            settings,
            provenance,
        )

    def __str__(self) -> str:
        """A table."""
        to = "0" if self.settings["to"] == "zero" else "their mean over the prompt"
        counts = "n_pruned", "n_graph", "n_active"
        sizes = [np.mean([getattr(each, name) for each in self.prompts]) for name in counts]
        tested = np.mean([len(each.ablations) for each in self.prompts])
        over = "prompts" if self.n > 1 else "nodes"
        stable = [
            f"{share:.2f}: {np.mean([x.size for x in at]):.0f} nodes, {np.mean([x.jaccard for x in at]):.2f}"
            for at in zip(*(each.stability for each in self.prompts), strict=True)
            for share in [at[0].nodes]
        ]
        return "\n".join([
            f"{self.n} prompt{'s' if self.n > 1 else ''}; nodes ablated to {to}, {self.settings['propagation']} run;"
            f" 95 % bootstrap over {over}",
            f"{tested:.0f} nodes one by one, predicted against real change of the root",
            f"  Spearman, all paths      {self.spearman}",
            f"    first token left out   {self.spearman_later}",
            f"  Spearman, direct edge    {self.spearman_direct}",
            f"  slope, all paths         {self.slope}",
            f"{sizes[0]:.0f} nodes of the pruned graph ({sizes[1]:.0f} in the graph, {sizes[2]:.0f} active)"
            f"      {self.settings['sets']} random sets each",
            f"  necessity, share lost    {self.necessity!s:<22}  {self.random_necessity}",
            f"  sufficiency, share kept  {self.sufficiency!s:<22}  {self.random_sufficiency}",
            "scores                     graph                   pruned graph",
            f"  replacement              {self.scores['replacement']!s:<22}  {self.scores['pruned replacement']}",
            f"  completeness             {self.scores['completeness']!s:<22}  {self.scores['pruned completeness']}",
            f"ledger: residual {self.residual:.1e}; outside the graph {self.outside}",
            f"pruned at other shares of influence, Jaccard with {self.settings['nodes']:.2f}",
            *(f"  {each}" for each in stable),
        ])  # fmt: skip


def _columns(prompt: PromptValidation, name: str, later: bool) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and real changes of a prompt's nodes, or of those not at the first token."""
    nodes = [each for each in prompt.ablations if not (later and each.name.endswith("@0"))]
    return np.array([getattr(each, name) for each in nodes]), np.array([each.real for each in nodes])
