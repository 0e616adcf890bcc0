"""Commands on the pages and in docstrings exist, and have the options that are written there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from edgewise.cli._app import app

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
SCRIPTS = [path for folder in ("src", "benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
COMMANDS = get_command(app)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def written(path: Path) -> Iterator[str]:
    """What looks like a command in a file: code in spans, and lines of code or of a docstring."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    if path.suffix == ".md":
        yield from re.findall(r"(?<!`)`((?:edgewise|python) [^`]+)`", text)
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if (found := re.match(r"( {4,})?(?:\w+=\S+ )?((?:edgewise|python) .+)", line)) and (found[1] or fenced):
            yield re.split(r"\s+#| \| | > ", found[2])[0]


def has(script: str, option: str) -> bool:
    """Whether a script says the option, or makes it of its name."""
    return f'"{option}"' in script or ('f"--{' in script and f'"{option[2:]}"' in script)


def complaint(command: str) -> str | None:
    """What is wrong with a command; None if nothing is, or if it is not one of ours."""
    first, *words = command.split()
    if first == "python":
        words = [word for word in words if word != "-u"]
        if not re.fullmatch(r"(benchmarks|examples)/\w+\.py", words[0]):
            return None
        script = ROOT / words[0]
        if not script.is_file():
            return f"there is no {words[0]}"
        text = script.read_text("utf-8") + "".join(path.read_text("utf-8") for path in script.parent.glob("_*.py"))
        return next((f"{words[0]} has no {each}" for each in OPTION.findall(command) if not has(text, each)), None)
    group: Any = COMMANDS
    options = {"--help"}
    while True:
        options |= {each for parameter in group.params for each in (*parameter.opts, *parameter.secondary_opts)}
        if len(words) > 1 and words[0] == "--plugin":
            words = words[2:]
        if not isinstance(group, TyperGroup) or not words or words[0].startswith(("-", "<", "[", "…")):
            break
        if not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            return None
        if words[0] not in group.commands:
            return f"there is no {words[0]!r}"
        group = group.commands[words.pop(0)]
    return next((f"no {each}" for each in OPTION.findall(" ".join(words)) if each not in options), None)


def test_commands_that_are_written_exist():
    every = {path: list(written(path)) for path in (*PAGES, *SCRIPTS)}
    assert sum(map(len, every.values())) > 300
    wrong = {
        f"{path.relative_to(ROOT)}: {command}": found
        for path, commands in every.items()
        for command in commands
        if (found := complaint(command))
    }
    assert not wrong


def test_a_command_that_is_gone_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "`edgewise study prompting --steps 3`\n\n    edgewise find --bogus 3   # --not-one\n    edgewise find\n"
    )
    assert [complaint(each) for each in written(page)] == ["there is no 'study'", "no --bogus", None]
    assert complaint("python benchmarks/gone.py --out x") == "there is no benchmarks/gone.py"
    assert complaint("python benchmarks/seeds.py --gone") == "benchmarks/seeds.py has no --gone"
    assert complaint("edgewise transcoder train --out x") is None and complaint("edgewise transcoder burn")
