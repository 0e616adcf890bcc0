"""How the library's annotations are held true while the tests run: kinds and shapes of arguments and results.

A check costs some 50 µs, and a step of learning calls a thousand small functions. So each function is checked the first
times that a test calls it, and now and then after that.
"""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

FIRST, EVERY = 5, 64
"""How many of a function's calls in a test are checked at the start, and which share of those that follow."""

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
    checked, test, calls = None, -1, 0

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked, test, calls
        if test != _test:
            test, calls = _test, 0
        calls += 1
        if calls > FIRST and calls % EVERY:
            return function(*args, **kwargs)
        if checked is None:
            checked = _jaxtyped(function, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call


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
