"""Settings as a frozen dataclass: checked by the types of its fields, read from text, and documented field by field.

The same dataclass serves Python, the command line (`--set name=value`) and files.
"""

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, replace
from functools import lru_cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from edgewise._errors import InputError

_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a name"),
}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
Settings = TypeVar("Settings")


class Bound(NamedTuple):
    """Which numbers a setting may have, written into its type, such as `Annotated[int, Bound(…)]`."""

    allows: Callable[[float], bool]
    words: str
    """What to give instead of others."""


Count = Annotated[int, Bound(lambda n: n >= 1, "at least 1")]
"""A whole number of at least 1."""
NotNegative = Annotated[int, Bound(lambda n: n >= 0, "at least 0")]
"""A whole number of at least 0."""
AtLeast0 = Annotated[float, Bound(lambda x: 0 <= x < math.inf, "a number of at least 0")]
"""A number of at least 0."""
Positive = Annotated[float, Bound(lambda x: 0 < x < math.inf, "a number above 0")]
"""A finite number above 0."""


class Setting(NamedTuple):
    """One field of a dataclass of settings."""

    name: str
    kind: Any
    """Its type."""
    default: Any
    doc: str
    bounds: tuple[Bound, ...] = ()

    @property
    def choices(self) -> str:
        """What it may be, in words."""
        return _wanted(self.kind)


@lru_cache
def settings_of(config: type) -> dict[str, Setting]:
    """The fields of a dataclass of settings by name, each with the docstring under it."""
    kinds, docs, whole = get_type_hints(config), _docs(config), get_type_hints(config, include_extras=True)
    found = {}
    for field in fields(config):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        found[field.name] = Setting(
            field.name, kinds[field.name], default, docs.get(field.name, ""), _bounds(whole[field.name])
        )
    return found


def check_settings(title: str, settings: Any) -> None:
    """Check the values of a dataclass of settings by its annotations; `title` says what they are of.

    Raises:
        InputError: a value is of another type, no choice of its field or out of its bounds.
    """
    for name, setting in settings_of(type(settings)).items():
        value = getattr(settings, name)
        if not _is(value, setting.kind):
            raise InputError(f"{title}: {name}={value!r}; {_instead(setting.kind)}")
        if value is not None and (bad := next((each for each in setting.bounds if not each.allows(value)), None)):
            raise InputError(f"{title}: {name} {value}; give {bad.words}")


def parse_settings(title: str, config: type, texts: Iterable[str]) -> dict[str, Any]:
    """Settings given as `name=value`, each read by the type of its field.

    Lists are written with commas, and `none` is None where a field may be that.

    Raises:
        InputError: a text has no `=`, there is no such field, or its value cannot be read.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{title}: {text!r} sets nothing; write name=value")
        name = name.strip().replace("-", "_")
        known_settings(title, config, (name,))
        kind = settings_of(config)[name].kind
        try:
            found[name] = _read(value.strip(), kind)
        except ValueError as error:
            raise InputError(f"{title}: {name}={value.strip()!r}; {_instead(kind)}") from error
    return found


def known_settings(title: str, config: type, names: Iterable[str]) -> None:
    """Refuse names that are no fields of a dataclass of settings. Raises `InputError`."""
    known = settings_of(config)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{title}: there is no setting {unknown[0]!r}; use {', '.join(known) or 'none, it has none'}")


def change_settings(title: str, settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The same settings with some changed. Raises `InputError` for one that there is not."""
    known_settings(title, type(settings), changes)
    return replace(settings, **changes)  # pyright: ignore[reportArgumentType] (a dataclass, which no type variable says)


def _bounds(kind: Any) -> tuple[Bound, ...]:
    """Those in an annotation, or in one part of a union."""
    if get_origin(kind) is Annotated:
        return tuple(each for each in kind.__metadata__ if isinstance(each, Bound))
    return tuple(each for part in get_args(kind) for each in _bounds(part))


def _is(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in inner)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_is(each, inner[0]) for each in value)
    if kind is NoneType:
        return value is None
    if kind not in _KINDS:
        return kind is Any or callable(value)
    return isinstance(value, _KINDS[kind][0]) and (kind is bool or not isinstance(value, bool))


def check_counts(what: str, least: int = 1, **counts: int | None) -> None:
    """Refuse counts below the least, which would count from the end or be of nothing; None is no count. Raises
    `InputError`.
    """
    for name, given in counts.items():
        if given is not None and given < least:
            raise InputError(f"{what}: {name}={given}; give {least} or more")


def _read(text: str, kind: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if NoneType in inner and text.lower() == "none":
            return None
        return _read(text, next(each for each in inner if each is not NoneType))
    if origin is tuple:
        return tuple(_read(part.strip(), inner[0]) for part in text.split(",")) if text else ()
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ValueError(text)
        return _WORDS[text.lower()]
    if origin is Literal and text not in inner:
        raise ValueError(text)
    return kind(text) if kind in (int, float) else text


def _instead(kind: Any) -> str:
    """What to do about a value that is none of its kind."""
    return f"{'choose' if get_origin(kind) is Literal else 'give'} {_wanted(kind)}"


def _wanted(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, inner[:-1])), str(inner[-1]))))
    if origin in (Union, UnionType):
        words = [_wanted(each) for each in inner if each is not NoneType]
        return " or ".join(dict.fromkeys([*words, *(["none"] if NoneType in inner else [])]))
    if origin is tuple:
        return f"several of {_wanted(inner[0])}" if get_origin(inner[0]) is Literal else f"{_wanted(inner[0])} or more"
    return _KINDS[kind][1] if kind in _KINDS else "a function"


def _docs(config: type) -> dict[str, str]:
    """The docstrings under a class's fields, inherited ones among them; none where there is no source."""
    found: dict[str, str] = {}
    for each in reversed(config.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, doc in pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                said = doc.value.value if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) else None
                if isinstance(said, str):
                    found[field.target.id] = " ".join(said.split())
    return found
