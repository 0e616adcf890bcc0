"""Files of a user's own that add methods and the like: run once, before a name that they may add is looked up."""

import hashlib
import os
import sys
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from edgewise._errors import InputError

VARIABLE = "EDGEWISE_PLUGINS"
"""Paths of Python files, separated as `PATH` is; processes that a command starts inherit it."""
_done: set[str] = set()


def use_plugins(paths: Iterable[str]) -> None:
    """Run files here and in every process that is started from here. Raises `InputError`."""
    before = os.environ.get(VARIABLE, "")
    named = [*filter(None, before.split(os.pathsep)), *map(os.path.abspath, paths)]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(named))
    try:
        load_plugins()
    except BaseException:  # else it would fail whatever is looked up next
        os.environ[VARIABLE] = before
        raise


def load_plugins() -> None:
    """Run the files that the environment names, each once. Raises `InputError`."""
    for path in map(os.path.abspath, filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))):
        if path in _done:
            continue
        _done.add(path)  # before it runs: what it registers may look for plugins itself
        try:
            _run(path)
        except BaseException as error:
            _done.discard(path)
            if isinstance(error, InputError) or not isinstance(error, Exception):
                raise
            # Whatever the user's file does, the user needs one line.
            raise InputError(f"plugin {path}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _run(path: str) -> None:
    """As a module, so that the docstrings of its settings' fields can be read; of a name that no other file has."""
    if not os.path.isfile(path):
        raise InputError(f"plugin {path}: no such file; give a Python file that registers something")
    name = f"edgewise_plugin_{Path(path).stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"plugin {path}: not a Python file; give one whose name ends in .py")
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
