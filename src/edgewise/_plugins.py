"""Files of a user's own that add methods and the like: run once, before a name that they may add is looked up."""

import os
import runpy
from collections.abc import Iterable

from edgewise._errors import InputError

VARIABLE = "EDGEWISE_PLUGINS"
"""Paths of Python files, separated as `PATH` is; processes that a command starts inherit it."""
_done: set[str] = set()


def use_plugins(paths: Iterable[str]) -> None:
    """Run files here and in every process that is started from here. Raises `InputError`."""
    named = [*filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)), *map(os.path.abspath, paths)]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(named))
    load_plugins()


def load_plugins() -> None:
    """Run the files that the environment names, each once. Raises `InputError`."""
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if path in _done:
            continue
        _done.add(path)
        if not os.path.isfile(path):
            raise InputError(f"plugin {path}: no such file; give a Python file that registers methods")
        try:
            runpy.run_path(path)
        except InputError:
            raise
        except Exception as error:  # whatever the user's file does, the user needs one line
            raise InputError(f"plugin {path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
