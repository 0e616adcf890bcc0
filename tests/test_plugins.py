"""Files of a user's own: each runs once, under a name of its own, and again if it failed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewise import InputError, _plugins


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None has run before, and none stays."""
    monkeypatch.setattr(_plugins, "_done", set())
    monkeypatch.setenv(_plugins.VARIABLE, "")
    yield
    for name in list(_loaded()):
        del sys.modules[name]


def _loaded() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.startswith("edgewise_plugin_twin")}


def _written(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_two_files_of_one_name_are_two_modules(tmp_path: Path):
    paths = [_written(tmp_path / folder / "twin.py", f"VALUE = {folder!r}\n") for folder in "ab"]
    _plugins.use_plugins(paths)
    assert {module.__file__: module.VALUE for module in _loaded().values()} == dict(zip(paths, "ab", strict=True))


def test_a_file_that_failed_is_run_again(tmp_path: Path):
    path = tmp_path / "twin.py"
    for text, said in ((None, "no such file"), ("raise ValueError('not\\nyet')", "ValueError: not yet$")):
        if text is not None:
            _written(path, text)
        for _ in range(2):
            with pytest.raises(InputError, match=said):
                _plugins.use_plugins([str(path)])
    _written(path, "VALUE = 1\n")
    _plugins.use_plugins([str(path)])
    assert [module.VALUE for module in _loaded().values()] == [1]


def test_a_file_named_twice_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, out = tmp_path / "twin.py", tmp_path / "out.txt"
    _written(path, f"with open({str(out)!r}, 'a') as file:\n    file.write('ran ')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(_plugins.VARIABLE, "twin.py")
    _plugins.use_plugins(["twin.py", str(path)])
    assert out.read_text() == "ran "
