"""What a release says of itself, in three places, and what its users lean on."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

tomllib: Any = pytest.importorskip("tomllib")  # of Python 3.11
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMPORTED = re.compile(r"[\w.-]+")


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Every part of the library's code, with its file and line."""
    return [
        (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", node)
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call))
    ]


def test_version_citation_and_changelog_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest
    # Between releases changes gather without a number; a release has its own part.
    assert newest[1] == ("Unreleased" if "dev" in PROJECT["version"] else PROJECT["version"])


def test_what_is_imported_is_declared():
    """By the project or by one of its extras, so that an empty environment has it."""
    of_distribution = packages_distributions()
    texts = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    declared = {"edgewise"} | {_same(match[0]) for text in texts if (match := IMPORTED.match(text))}
    wrong = set()
    for where, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        for top in {name.split(".")[0] for name in names}:
            providers = {_same(each) for each in of_distribution.get(top, [])}
            if providers and not providers & declared:
                wrong.add(f"{where}: {top}")
    assert not wrong, "\n".join(sorted(wrong))


def test_every_python_that_is_promised_is_one_that_the_package_is_tried_on():
    said = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: Python :: 3\.\d+$", each)}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]
    assert said and said <= {each["python"] for each in jobs["package"]["strategy"]["matrix"]["include"]}
    assert PROJECT["requires-python"] == f">={min(said, key=lambda version: int(version.split('.')[1]))}"


def _same(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_template_and_workflow_is_yaml():
    paths = [path for pattern in ("*.yml", "*/*.yml") for path in (ROOT / ".github").glob(pattern)]
    assert len(paths) >= 4
    for path in paths:
        assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict), path


SAFE = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "from_pretrained": ("trust_remote_code", False),
    "from_config": ("trust_remote_code", False),
}
"""What reads files of others, and the argument without which they could run code (SECURITY.md)."""
NEVER = ("eval", "exec", "pickle.load", "pickle.loads", "yaml.unsafe_load", "os.system", "joblib.load")


def test_files_of_others_run_no_code():
    seen = set()
    for where, call in nodes():
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        assert name not in NEVER, where
        assert name != "yaml.load" or ast.unparse(call.args[1]) == "_Texts", where  # a BaseLoader, which makes texts
        for reader, (argument, value) in SAFE.items():
            # A class that is named loads no other; Auto classes would take one that comes with the files.
            if name == reader or (name.startswith("Auto") and name.endswith(f".{reader}")):
                given = {each.arg: ast.unparse(each.value) for each in call.keywords}
                # `choices` is a dictionary that begins with this argument.
                assert given.get(argument) == str(value) or given.get(None) == "choices", f"{where}: {name}"
                seen.add(reader)
    assert seen == {*SAFE}


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path):
    """Data files too: what is left out fails on a user's machine alone."""
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    with ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("edgewise/")}
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "edgewise").rglob("*")}
    assert held == {name for name in wanted if (ROOT / "src" / name).is_file() and "__pycache__" not in name}
    assert "edgewise/py.typed" in held
