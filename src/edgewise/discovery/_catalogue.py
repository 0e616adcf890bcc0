"""The catalogue of methods: one record each, from which the command line, benches, error texts and tables derive.

To add a method, write a function of (engine, task, settings) and `register` a record of it. Nothing here imports
PyTorch: a record names its function, which is imported when it is run.
"""

from typing import Literal

from edgewise._errors import InputError
from edgewise._plugins import load_plugins
from edgewise.discovery._configs import MethodConfig
from edgewise.discovery._methods import OURS, Method

_METHODS = {method.name: method for method in OURS}


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
    does = {"positions": "tell positions apart", "features": "run features or neurons"}[what]
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
