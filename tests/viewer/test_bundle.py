"""The script and the style that are checked in are what their sources give."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.viewer.conftest import missing

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "viewer-src"


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        missing("node")
    if not (SOURCES / "node_modules").is_dir():
        missing("the viewer's build tools (make viewer-tools)")
    assert found
    return found


def test_the_bundle_is_what_its_sources_give(node: str, tmp_path: Path):
    subprocess.run([node, SOURCES / "build.mjs", tmp_path], check=True, timeout=120)
    for name in ("bundle.js", "bundle.css"):
        assert (tmp_path / name).read_bytes() == (ROOT / "src/edgewise/viewer" / name).read_bytes(), (
            f"{name} is older than viewer-src: make viewer"
        )


def test_the_sources_types_hold(node: str):
    checked = subprocess.run(
        [node, SOURCES / "node_modules/typescript/bin/tsc", "--noEmit", "-p", SOURCES],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert checked.returncode == 0, checked.stdout


def test_nothing_in_the_sources_makes_markup_of_text():
    text = "\n".join(path.read_text("utf-8") for path in (SOURCES / "src").rglob("*.ts"))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "fetch("):
        assert word not in text
    for call in ("Math.max(...", "Math.min(...", ".push(..."):
        assert call not in text, "an array of a hundred thousand has too many numbers for arguments"
