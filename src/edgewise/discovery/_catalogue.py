"""The catalogue of methods: one record each, from which the command line, benches, error texts and tables derive.

To add a method, write a function of (engine, task, settings) and `register` a record of it. Nothing here imports
PyTorch: a record names its function, which is imported when it is run.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from edgewise._errors import InputError
from edgewise._plugins import load_plugins
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
    """Whether it learns by gradient descent, so that constants of optimal ablation can be learned with it."""
    positions: bool = False
    """Whether it tells position groups apart."""
    features: bool = False
    """Whether it runs graphs with transcoder features."""
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


_METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method to the catalogue, or replace the one of that name.

    Raises:
        InputError: its settings are no `MethodConfig`.
    """
    if not (isinstance(method.config, type) and issubclass(method.config, MethodConfig)):
        raise InputError(f"{method.name}: config is {method.config!r}; give a class derived from MethodConfig")
    _METHODS[method.name] = method
    return method


def methods() -> dict[str, Method]:
    """All methods by name."""
    import edgewise.discovery._methods  # noqa: F401 (ours register themselves)

    load_plugins()
    return dict(_METHODS)


def method(name: str, what: str = "method") -> Method:
    """The method of that name. Raises `InputError`, which lists them."""
    known = methods()
    if name not in known:
        raise InputError(f"{what} {name!r}: choose {', '.join(known)}, or give a file with your own to --plugin")
    return known[name]


def members(config: MethodConfig) -> list[Method]:
    """The methods that an ensemble's settings name.

    Raises:
        InputError: one is unknown, or gives no scores without learning.
    """
    able = {name: each for name, each in methods().items() if each.gives == "scores" and not each.learns}
    able.pop("ensemble")
    names: tuple[str, ...] = getattr(config, "methods", ())
    if unknown := [name for name in names if name not in able]:
        raise InputError(f"{config.title}: methods {unknown[0]!r}; choose among {', '.join(able)}")
    return [able[name] for name in names]


def check_able(each: Method, config: MethodConfig, what: Literal["positions", "features"], option: str) -> None:
    """Refuse a method, or an ensemble's member, that cannot run such a graph. Raises `InputError`."""
    does = {"positions": "tell positions apart", "features": "run features"}[what]
    for used in members(config) or [each]:
        if not getattr(used, what):
            able = ", ".join(name for name, other in methods().items() if getattr(other, what))
            raise InputError(f"{option}: {used.name} does not {does}; choose {able}")


def methods_table() -> str:
    """The catalogue as a Markdown table, as docs/methods.md has it."""
    lines = [
        "| method | `edgewise find --method` | cost | sees joint effects | ablations | source |",
        "|---|---|---|---|---|---|",
    ]
    for each in methods().values():
        anchor = "".join(c for c in each.section.lower() if c.isalnum() or c in " -").replace(" ", "-")
        cells = (each.cost, each.joint, each.ablations, each.source)
        lines.append(f"| [{each.section}](#{anchor}) | `{each.name}` | {' | '.join(cells)} |")
    return "\n".join(lines)
