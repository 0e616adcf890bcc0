"""What `find` can run: every method by name, with the settings that the command line has for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit

LEARNED = ("ranking", "edge-pruning", "node-pruning")
ATTRIBUTION = (
    "random",
    "eap",
    "eap-ig",
    "eap-ig-activations",
    "mask-ig",
    "relevance",
    "node-eap",
    "node-ig",
    "atp-star",
    "flow",
    "exact",
    "ensemble",
)
AT_FULL_MODEL = ("eap", "relevance", "node-eap", "atp-star")
METHODS = (*LEARNED, *ATTRIBUTION, "acdc")
WHOLE = ("node-pruning", "node-eap", "node-ig", "atp-star", "exact", "acdc")
"""The methods that do not tell positions apart."""


@dataclass(frozen=True)
class Settings:
    """What a user may set, checked as far as that goes without a model."""

    method: str
    sparsity: float
    preset: str = "default"
    steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    points: int = 5
    quadrature: str = "gauss-legendre"
    threshold: float = 0.01
    pairs: int = 16
    of: str = "eap-ig,mask-ig,relevance"

    def __post_init__(self) -> None:
        """Refuse what is wrong, before anything is loaded."""
        from edgewise.discovery import quadrature

        if self.method not in METHODS:
            raise InputError(f"--method {self.method!r}: choose {', '.join(METHODS)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: use at least 1")
        if self.preset not in ("default", "paper"):
            raise InputError(f"--preset {self.preset!r}: choose default or paper")
        if self.preset == "paper" and self.method != "edge-pruning":
            raise InputError(f"--preset paper: these are settings of edge-pruning, not of {self.method}")
        if self.method != "edge-pruning" and not 0 < self.sparsity < 1:
            raise InputError(
                f"--sparsity {self.sparsity}: it is 1 − kept edges / all edges, so between 0 and 1; 0.98 keeps 2 %"
            )
        if self.pairs < 1:
            raise InputError(f"--pairs {self.pairs}: use at least 1")
        quadrature(self.points, self.quadrature)  # pyright: ignore[reportArgumentType] (checked there)
        for name in self.of.split(","):
            if name not in ATTRIBUTION or name == "ensemble":
                raise InputError(f"--of {name!r}: choose among {', '.join(ATTRIBUTION[:-1])}")
        if self.method in LEARNED:
            self.config()

    def config(self) -> Any:
        """A learned method's configuration."""
        from edgewise.discovery import EdgePruningConfig, NodePruningConfig, RankingConfig

        if self.method == "edge-pruning":
            make = EdgePruningConfig.paper if self.preset == "paper" else EdgePruningConfig
            config = make(sparsity=self.sparsity)
        else:
            config = RankingConfig() if self.method == "ranking" else NodePruningConfig()
        given = {"steps": self.steps, "batch_size": self.batch_size}
        return replace(config, seed=self.seed, **{name: value for name, value in given.items() if value is not None})


def check_positions(settings: Settings) -> None:
    """Refuse `--positions` for a method that does not tell them apart, before anything is loaded."""
    used = settings.of.split(",") if settings.method == "ensemble" else [settings.method]
    if refused := next((name for name in used if name in WHOLE), None):
        able = ", ".join(name for name in METHODS if name not in WHOLE)
        raise InputError(f"--positions: {refused} does not tell positions apart; choose {able}")


def find_circuit(engine: Any, task: Any, settings: Settings, options: Any) -> Circuit:
    """Run a method."""
    import edgewise as ew

    if settings.method == "edge-pruning":
        return ew.edge_pruning(engine, task, settings.config(), options=options)
    if settings.method == "acdc":
        size = settings.batch_size or 16
        return ew.acdc(engine, task, settings.threshold, pairs=settings.pairs, batch_size=size, options=options)[0]
    if settings.method == "ranking":
        scores = ew.learn_ranking(engine, task, settings.config(), options=options)
    elif settings.method == "node-pruning":
        scores = ew.node_pruning(engine, task, settings.config(), options=options)
    else:
        scores = attribute(settings.method, engine, task, settings, options)
    absolute = settings.method in ATTRIBUTION and settings.method != "ensemble"  # whose values are ranks
    return scores.at(settings.sparsity, actual=True, absolute=absolute)


def attribute(name: str, engine: Any, task: Any, settings: Settings, options: Any) -> Any:
    """The scores of a method without learning."""
    import edgewise as ew
    from edgewise.discovery import Cost, provenance

    if name in AT_FULL_MODEL and ew.tasks.metric_function(task.metric).distance:  # it has no gradient there
        task = replace(task, metric=task.explained)
    size: dict[str, Any] = {"batch_size": settings.batch_size or 32}
    path: dict[str, Any] = {"points": settings.points, "rule": settings.quadrature, **size}
    exact = {"pairs": settings.pairs, "batch_size": settings.batch_size or 16, "options": options}
    methods: dict[str, Callable[[], Any]] = {
        "random": lambda: replace(
            ew.random_scores(engine.graph, settings.seed),
            provenance=provenance(engine, task, {"name": "random", "seed": settings.seed}, Cost()),
        ),
        "eap": lambda: ew.eap(engine, task, **size),
        "eap-ig": lambda: ew.eap_ig(engine, task, **path),
        "eap-ig-activations": lambda: ew.eap_ig(engine, task, path="activations", **path),
        "mask-ig": lambda: ew.mask_ig(engine, task, **path),
        "relevance": lambda: ew.relevance(engine, task, **size),
        "node-eap": lambda: ew.node_eap(engine, task, **size),
        "node-ig": lambda: ew.node_ig(engine, task, **path),
        "atp-star": lambda: ew.atp_star(engine, task, **size),
        "flow": lambda: ew.flow(engine, task, **size),
        "exact": lambda: ew.exact(engine, task, **exact),
        "ensemble": lambda: ew.ensemble(
            [attribute(each, engine, task, settings, options) for each in settings.of.split(",")]
        ),
    }
    return methods[name]()


def make_engine(model: Any, graph: Any, ablation: str, task: Any, **choices: Any) -> Any:
    """An engine under an ablation by name; `optimal` for constants learned jointly with the masks."""
    import edgewise as ew

    if ablation == "optimal":
        return ew.learned_engine(model, task, graph, **choices)
    return ew.Engine(model, graph, ew.Ablation(ablation), **choices)  # pyright: ignore[reportArgumentType] (checked there)


def engine_of(path: Path, circuit: Circuit, model: Any, **choices: Any) -> Any:
    """The engine that a saved circuit is judged on; learned constants lie beside it."""
    import edgewise as ew
    from edgewise.evaluation import recorded_ablation

    ablation = recorded_ablation(circuit)
    if ablation is not None and ablation.kind == "learned":
        return ew.load_constants(model, path.parent / "constants.safetensors", **choices)
    return ew.Engine(model, circuit.graph, ablation, **choices)
