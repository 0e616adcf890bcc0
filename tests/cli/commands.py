"""What the tests of the command line share: how a command is run, and how it ended."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgewise.cli import main

WORDS = ["a", "cat", "dog", "ran", "sat", "on", "the", "to", "mat", "rug", "Mary", "Ann", "Lee", "Sue", "John"]
NAMES = ["Mary", "Ann", "Lee", "Sue", "John"]
PNG = b"\x89PNG\r\n\x1a\n"


class Ran(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Cli:
    """The command line in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *arguments: Any) -> Ran:
        self.monkeypatch.setattr(sys, "argv", ["edgewise", *map(str, arguments)])
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capfd.readouterr()
        assert ended.value.code is None or isinstance(ended.value.code, int)
        return Ran(ended.value.code or 0, out, err)

    def refused(self, *arguments: Any) -> str:
        """The one line with which a command is refused."""
        ran = self(*arguments)
        assert ran.status == 2, ran
        # A random model does no task, of which find warns before it runs.
        lines = [line for line in ran.err.splitlines() if not line.startswith("warning: on ")]
        assert len(lines) == 1 and lines[0].startswith("edgewise: "), ran.err
        assert "Traceback" not in ran.out
        return lines[0]


def find(model: Path, pairs: Path | str, out: Path, *others: Any, size: float | None = 0.6) -> list[Any]:
    options = {"--model": model, "--task": pairs, "--out": out} | ({} if size is None else {"--sparsity": size})
    return ["find", *(x for option in options.items() if option[0] not in others for x in option), *others]


def files(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones too; an empty folder is no harm."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
