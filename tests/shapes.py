"""How the library's annotations are held true while the tests run: kinds and shapes of arguments and results.

A check costs some 100 µs, and a step of learning calls a thousand small functions. So of a function's calls in a test
the first, second, fourth, eighth and so on are checked; and what was checked once, with arguments and a result of these
very kinds and shapes, need not be checked again.
"""

import inspect
import threading
from collections.abc import Callable, Collection
from dataclasses import is_dataclass
from functools import update_wrapper, wraps
from random import Random
from types import CodeType, FunctionType, NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype
from torch import Tensor

_beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
_jaxtyped = jaxtyping.jaxtyped
_test = 0


def install() -> None:
    """Hold the annotations of all that is imported from `edgewise` from now on."""
    jaxtyping.jaxtyped = _now_and_then  # what the hook puts on every function and class
    jaxtyping.install_import_hook("edgewise", f"{__name__}.check")


def begin_test() -> None:
    """Count each function's calls anew."""
    global _test
    _test += 1


def _now_and_then(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    def decorate(target: Any) -> Any:
        if not inspect.isclass(target):
            return _sampled(target, typechecker) if inspect.isfunction(target) else target
        if is_dataclass(target):
            target.__init__ = _sampled(target.__init__, typechecker)
        return target

    return decorate


def _sampled(function: Callable[..., Any], typechecker: Callable[..., Any]) -> Callable[..., Any]:
    checks: Checks | None = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checks
        if checks is None:
            # Of a function within another, which is made anew at each call, once; but a decorator may have given each
            # of those it makes annotations of its own by now.
            key = id(function.__code__), repr(function.__annotations__)
            checks = _checks.get(key) or _checks.setdefault(key, Checks(function, typechecker))
        if checks.test != _test:
            checks.test, checks.calls = _test, 0
        checks.calls = calls = checks.calls + 1
        if calls & (calls - 1):  # no power of two
            return function(*args, **kwargs)
        return checks.run(function, args, kwargs)

    return call


class Checks:
    """The checks of one function, or of all that one definition makes."""

    def __init__(self, function: Callable[..., Any], typechecker: Callable[..., Any]) -> None:
        self.test, self.calls = -1, 0
        self.like, self.typechecker = function, typechecker
        self.code: CodeType = function.__code__  # kept, so that no other gets its id
        self.checked: Callable[..., Any] | None = None
        self.good: dict[Any, set[Any]] = {}
        """Kinds of arguments that were right, and those of the results."""

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function, checked unless that is known to be right."""
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        given = _kind((*args, *kwargs.values()), (*kwargs,))
        results = None if given is None else self.good.get(given)
        if results is None:
            result = self.check(function, args, kwargs)
        else:
            result = function(*args, **kwargs)
            if (kind := _kind((result,))) in results:
                return result
            self.check(lambda *_, **__: result, args, kwargs)
        if given is not None and (kind := _kind((result,))) is not None:
            self.good.setdefault(given, set()).add(kind)
        return result

    def check(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function with all annotations held true."""
        __tracebackhide__ = True
        if self.checked is None:
            # With the globals of the function's own module, where names in annotations are looked up.
            relay = FunctionType(_relay.__code__, self.like.__globals__, closure=_relay.__closure__)
            self.checked = _jaxtyped(update_wrapper(relay, self.like), typechecker=self.typechecker)
        # Checking arguments may call functions that are checked themselves, such as a sequence's own.
        waiting = _next.__dict__.setdefault("functions", [])
        before = len(waiting)
        waiting.append(function)
        try:
            return self.checked(*args, **kwargs)
        finally:
            del waiting[before:]


_checks: dict[tuple[int, str], Checks] = {}


def _to_next() -> tuple[threading.local, Any]:
    following = threading.local()

    def relay(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return following.functions.pop()(*args, **kwargs)

    return following, relay


_next, _relay = _to_next()
"""What checks are put around, so that they are made once for all functions of one definition; and what it calls."""


def _kind(values: Collection[Any], names: tuple[str, ...] = ()) -> Any:
    """All that a check can see of some values; None where it may look further than this."""
    if len(values) > 32:
        return None
    kinds: list[Any] = [names]
    for value in values:
        kind = type(value)
        seen = _seen.get(kind) or _seen.setdefault(kind, _seen_of(kind))
        if seen == "kind":
            kinds.append(kind)
        elif seen == "shape":
            kinds.append((kind, value.dtype, value.shape))
        elif seen == "items":
            kind_within = _kind((*value.keys(), *value.values()) if isinstance(value, dict) else value)
            if kind_within is None:
                return None
            kinds.append((kind, kind_within))
        elif seen == "itself":
            kinds.append(value)
        else:
            return None
    return tuple(kinds)


_seen: dict[type, str] = {}


def _seen_of(kind: type) -> str:
    """What a check can see of values of this kind."""
    if kind in (NoneType, bool, int, float, str, FunctionType, Random):
        return "kind"
    if issubclass(kind, Tensor | np.ndarray):
        return "shape"
    if issubclass(kind, dict | tuple | list | set | frozenset):
        return "items"
    if hasattr(kind, "__getitem__") or kind is SimpleNamespace:
        return "more"
    return "itself" if issubclass(kind, type) else "kind"


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with its annotations held true; jaxtyping gives it one for the arguments and one for the result.

    Values of a `Literal` are left to the library, which refuses a wrong one in a line of its own, as tests expect.
    """
    hints = {name: _without_literals(hint) for name, hint in function.__annotations__.items()}
    if hints.get("return", Any) is not Any:  # the arguments were checked before the call
        hints = {"return": hints["return"]}
    function.__annotations__ = hints
    return _beartyped(function)


def _without_literals(hint: Any) -> Any:
    """The hint with the kinds of a literal's values in its place."""
    if get_origin(hint) is Literal:
        return Union[tuple({type(value) for value in get_args(hint)})]  # noqa: UP007 (of as many as there are)
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_without_literals, get_args(hint)))]  # noqa: UP007
    return hint
