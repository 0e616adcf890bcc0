"""A command's options as a file: `--show-config` prints them, `--config` takes them back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import yaml
from typer import Context, Option

import edgewise
from edgewise._errors import InputError
from edgewise.cli._print import line
from edgewise.runs import read_yaml

# Contexts are `Any` in what follows: typer gives one of a class that it does not show.
OWN = ("config", "show-config")
"""What a file cannot hold: the two options themselves."""


def configurable(settings: Callable[..., Any] | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--config FILE` and `--show-config`.

    Args:
        settings: takes the command's options by name, checks them, and gives the dataclass that they make, which is
            shown as well.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter("invocation", kind, annotation=Context),
            inspect.Parameter("config_file", kind, annotation=_File, default=None),
            inspect.Parameter("show_config", kind, annotation=_Show, default=False),
        ]

        @functools.wraps(command)
        def run(*args: Any, **values: Any) -> None:
            # No parameters of its own: of one with the default None, Python 3.10 would say that its type is optional.
            invocation, _, show_config = (values.pop(each.name, None) for each in added)
            if show_config and invocation is not None:
                line(_shown(invocation, values, None if settings is None else settings(**values)))
            else:
                command(*args, **values)

        every = [each.replace(kind=kind) for each in own] + added
        run.__signature__ = inspect.Signature(every)  # pyright: ignore[reportAttributeAccessIssue] (typer reads it)
        run.__annotations__ = {each.name: each.annotation for each in every}
        return run

    return wrap


def _take(context: Any, path: Path | None) -> Path | None:
    """Let a file's values stand where the command line gives none. Raises `InputError`."""
    if path is None:
        return None
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise InputError(f"--config {path}: give a mapping of options, as --show-config prints it")
    options = {_key(each): each for each in context.command.params if _key(each) not in (*OWN, "help")}
    found = {}
    for name, value in content.items():
        key = str(name).replace("_", "-")
        if key not in options:
            near = get_close_matches(key, options, 1) or options
            raise InputError(
                f"--config {path}: {context.info_name} has no option {str(name)[:40]!r}; use {', '.join(near)}"
            )
        found[options[key].name] = _given(f"--config {path}: {key}", options[key], value)
    context.default_map = found
    return path


_File = Annotated[
    Path | None,
    Option(
        "--config",
        help="A YAML file of these options, as --show-config prints it; the command line goes first.",
        callback=_take,
        is_eager=True,
    ),
]
_Show = Annotated[bool, Option("--show-config", help="Print all options as YAML for --config, and do nothing else.")]


def _given(title: str, option: Any, value: Any) -> Any:
    """A value of a file as the command line would have it, so that both are read alike. Raises `InputError`."""
    if value is None:
        return None
    flag = bool(getattr(option, "is_flag", False))
    if isinstance(value, bool) != flag:
        raise InputError(f"{title} {str(value)[:40]!r}; give {'true or false' if flag else 'no true or false'}")
    several = bool(getattr(option, "multiple", False)) or option.nargs != 1
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) != several or any(isinstance(each, (list, Mapping)) for each in values):
        raise InputError(f"{title} {str(value)[:40]!r}; give {'a list' if several else 'one value'}")
    return value if flag else [str(each) for each in values] if several else str(value)


def _key(option: Any) -> str:
    """What an option or argument is called in a file."""
    long = [name for name in getattr(option, "opts", ()) if name.startswith("--")]
    return long[0].removeprefix("--") if long else str(option.name).replace("_", "-")


def _shown(context: Any, values: Mapping[str, Any], settings: Any) -> str:
    """Options as YAML; what they make of the method's settings as comments."""
    names = {each.name: _key(each) for each in context.command.params}
    plain = {names[name]: _plain(value) for name, value in values.items()}
    text = f"# {context.command_path}, version {edgewise.__version__}\n"
    text += yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    if settings is not None:
        text += "# so these are the settings, which `set` may change:\n"
        lines = yaml.safe_dump(_plain(vars(settings)), sort_keys=False, allow_unicode=True, width=120).splitlines()
        text += "".join(f"#   {each}\n" for each in lines)
    return text.rstrip()


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
