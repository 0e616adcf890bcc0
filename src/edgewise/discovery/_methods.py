"""What is known of each method, in one record; and the records of our own, to which others of ours are appended."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from edgewise._errors import InputError
from edgewise.discovery import _configs as configs
from edgewise.discovery import _learned_configs as learned
from edgewise.discovery._configs import MethodConfig
from edgewise.runs import parse_settings, settings_of


@dataclass(frozen=True)
class Ladder:
    """How a method whose size one of its settings decides gives circuits of many sizes in one run."""

    setting: str
    """Which one; a bench takes several values of it under this name and an s."""
    run: str
    """`module:function` of (engine, task, values, settings), which gives a list of circuits."""
    values: tuple[float, ...]
    """Of the setting, where a bench says nothing."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What everybody who lists, checks or runs a method has to know of it."""

    name: str
    """On the command line, in benches and in results."""
    run: str | Callable[..., Any]
    """A function of (engine, task, settings), or `module:function`. It also takes `options` if the method resumes, and
    `start` if it may start from scores."""
    config: type[MethodConfig]
    """Its settings. A field `sparsity` means that it finds a circuit of one size, a field `seed` that it draws."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Named settings, beside the defaults."""
    gives: Literal["scores", "circuit"] = "scores"
    """Scores, of which circuits of any size are chosen, or a circuit."""
    ladder: Ladder | None = None
    """Where a setting of its own decides the circuit's size."""
    signs: tuple[Literal["absolute", "signed"], ...] = ("signed",)
    """How edges may be chosen by score; the first is `find`'s choice, and validation is a bench's."""
    gradient_at: Literal["full", "path", "masks"] | None = None
    """Where gradients of the metric are taken: at the full model alone (where KL to it has none), along a path of
    activations, along the masks, or nowhere."""
    learns: bool = False
    """Whether it learns by gradient descent."""
    optimal: bool = False
    """Whether constants of optimal ablation can be learned with it."""
    positions: bool = False
    """Whether it tells position groups apart."""
    features: bool = False
    """Whether it runs graphs with features or neurons in MLPs' places."""
    resumes: bool = False
    """Whether it takes `options` and goes on from a checkpoint."""
    start: Literal["no", "may", "must"] = "no"
    """Whether it takes scores to start from."""
    joint: str = "no"
    """Whether it sees effects of several edges together, in words."""
    ablations: str = "all"
    """Under which ablations it runs, in words."""
    cost: str = ""
    """Passes for an example, in words."""
    source: str = ""
    """Who published it."""
    section: str = ""
    """Its heading in docs/methods.md; the name if empty."""
    summary: str = ""
    """One line; that of its settings' docstring if empty."""

    def __post_init__(self) -> None:
        """Take the name as heading and the settings' first line as summary."""
        lines = (getattr(self.config, "__doc__", None) or "").split("\n\n")[0].split()
        object.__setattr__(self, "section", self.section or self.name)
        object.__setattr__(self, "summary", self.summary or " ".join(lines))

    @property
    def sized(self) -> bool:
        """Whether it finds a circuit of one size."""
        return "sparsity" in settings_of(self.config)

    @property
    def absolute(self) -> bool:
        """Whether the size of a score says how much an edge matters, by its own choice."""
        return self.signs[0] == "absolute"

    @property
    def attributes(self) -> bool:
        """Whether it gives scores without learning, by sign or size."""
        return len(self.signs) > 1

    def configure(
        self, changes: Mapping[str, Any] | None = None, *, preset: str = "default", texts: Iterable[str] = ()
    ) -> MethodConfig:
        """Its settings: a preset with some changed, by value or as `name=value`.

        Raises:
            InputError: there is no such preset or setting, or a value is wrong.
        """
        known = {"default": {}, **self.presets}
        if preset not in known:
            raise InputError(f"{self.name}: preset {preset!r}; choose {', '.join(known)}")
        given = {**(changes or {}), **parse_settings(self.name, self.config, texts)}
        if unknown := [name for name in given if name not in settings_of(self.config)]:
            has = ", ".join(settings_of(self.config))
            raise InputError(f"{self.name}: there is no setting {unknown[0]!r}; it has {has}")
        return self.config.of(known[preset], given)

    def function(self) -> Callable[..., Any]:
        """What runs it."""
        return imported(self.run) if isinstance(self.run, str) else self.run


def imported(place: str) -> Callable[..., Any]:
    """The function at `module:function`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


# ---------------------------------------------------------------------------------------------------------------- ours

_BOTH: tuple[Literal["absolute", "signed"], ...] = ("absolute", "signed")
_LEARNED: dict[str, Any] = {"learns": True, "optimal": True, "features": True, "resumes": True, "joint": "yes"}
_HANNA = "Hanna, Pezzelle & Belinkov 2024"


def _ours(name: str, section: str, config: type[MethodConfig], run: str, cost: str, source: str, **can: Any) -> Method:
    """A record of ours: the section is one of docs/methods.md, the function one of this room if no other is said."""
    run = run if ":" in run else f"edgewise.discovery:{run}"
    return Method(name=name, section=section, config=config, run=run, cost=cost, source=source, **can)


# fmt: off
OURS = (
    _ours("ranking", "Learned ranking", learned.RankingConfig, "learn_ranking", "F + B per step and example, masked",
          "after Matryoshka Attribution, 2026", presets={"quick": learned.QUICK, "mib": learned.MIB}, positions=True,
          start="may", **_LEARNED),
    _ours("ranking-ensemble", "Ranking ensemble", learned.RankingEnsembleConfig, "learn_ranking_ensemble",
          "the same, for each member", "ours", positions=True, ablations="all but optimal",
          **_LEARNED | {"optimal": False}),
    _ours("edge-pruning", "Edge Pruning", learned.EdgePruningConfig, "edge_pruning", "the same", "Bhaskar et al. 2024",
          presets={"paper": learned.PAPER}, gives="circuit", positions=True, start="may", **_LEARNED),
    _ours("node-pruning", "Node pruning", learned.NodePruningConfig, "node_pruning", "the same", "ours", **_LEARNED),
    _ours("refine", "Learned ranking", learned.RefineConfig, "refine_at_size", "the same", "ours",
          gives="circuit", positions=True, start="must", **_LEARNED),
    _ours("random", "Random", configs.RandomConfig, "random_scores", "nothing", "",
          positions=True, features=True, ablations="none needed"),
    _ours("eap", "EAP", configs.EapConfig, "eap",
          "2 F + B; with `qk_fix` 4 F + 2 B, and every writer through later queries and keys",
          "Syed, Rager & Conmy 2023", signs=_BOTH, gradient_at="full", positions=True, features=True),
    _ours("eap-ig", "EAP-IG on inputs", configs.EapIgConfig, "eap_ig", "2 F + m (F + B)", _HANNA,
          signs=_BOTH, gradient_at="path", positions=True, joint="along one path"),
    _ours("eap-ig-activations", "EAP-IG on activations", configs.EapIgActivationsConfig, "eap_ig",
          "2 F + some L m (F + B)", _HANNA,
          signs=_BOTH, gradient_at="path", positions=True, joint="along 2L + 1 paths"),
    _ours("mask-ig", "Mask-path IG", configs.MaskIgConfig, "mask_ig", "F + m (F + B), masked",
          "after Miller, Chughtai & Saunders 2024", signs=_BOTH, gradient_at="masks", positions=True, features=True,
          joint="along the mask's path"),
    _ours("attribution-graph", "Attribution graph", configs.AttributionGraphConfig,
          "edgewise.attribution:merged_graph_scores", "F + one B a row, and EAP's", "after Ameisen et al. 2025",
          features=True, joint="along frozen paths", ablations="interchange and zero for EAP's part"),
    _ours("relevance", "Relevance", configs.RelevanceConfig, "relevance", "3 F + B", "RelP, Jafari et al. 2025",
          signs=_BOTH, gradient_at="full", positions=True),
    _ours("node-eap", "Node attribution", configs.NodeEapConfig, "node_eap", "3 F + B", "Nanda 2023",
          signs=_BOTH, gradient_at="full"),
    _ours("node-ig", "Node attribution", configs.NodeIgConfig, "node_ig", "as EAP-IG", "Mueller et al. 2025",
          signs=_BOTH, gradient_at="path", joint="along one path"),
    _ours("atp-star", "AtP*", configs.AtpStarConfig, "atp_star", "3 F + L B", "Kramár et al. 2024",
          signs=_BOTH, gradient_at="full"),
    _ours("information-flow", "Information flow", configs.InformationFlowConfig, "information_flow", "F",
          "Ferrando & Voita 2024", signs=_BOTH, positions=True, ablations="none needed"),
    _ours("exact-patching", "Exact patching", configs.ExactPatchingConfig, "exact_patching", "some E F / 3",
          "Conmy et al. 2023", signs=_BOTH, resumes=True),
    _ours("ensemble", "Ensemble", configs.EnsembleConfig, "find_ensemble", "its members'",
          "Cormack, Clarke & Büttcher 2009", positions=True, features=True, joint="as they do"),
    _ours("acdc", "ACDC", configs.AcdcConfig, "acdc", "at most E F, mostly far less", "Conmy et al. 2023",
          gives="circuit", resumes=True, joint="greedily",
          ladder=Ladder("threshold", "edgewise.discovery:acdc_ladder", (0.1, 0.03, 0.01, 0.003, 0.001))),
)
# fmt: on
"""In the order in which they are listed."""
