"""The command line starts without PyTorch: help and refusals come at once."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "scipy", "matplotlib")
RUN = f"""
import sys
sys.argv = ["edgewise", *sys.argv[1:]]
from edgewise.cli import main
try:
    main()
except SystemExit as ended:
    found = [name for name in {HEAVY!r} if name in sys.modules]
    print(f"\\nended {{ended.code or 0}}, imported {{found}}")
"""
BENCH = "models: x\ntasks: ioi\nmethods: "
WRONG = {
    "method": ("find", "--method", "magic"),
    "field": ("find", "--set", "magic=1"),
    "value of a field": ("find", "--set", "steps=many"),
    "option of another method": ("find", "--points", "3"),
    "sparsity": ("find", "--sparsity", "1.5"),
    "ablation": ("find", "--ablation", "magic"),
    "task": ("find", "--task", "magic"),
    "metric to explain": ("find", "--method", "eap", "--set", "explains=magic"),
    "preset": ("find", "--preset", "magic"),
    "start": ("find", "--start", "missing.safetensors"),
    "metric": ("evaluate", "missing.safetensors", "--metrics", "magic"),
    "circuit": ("evaluate", "missing.safetensors"),
    "split": ("evaluate", "missing.safetensors", "--split", "magic"),
    "run to view": ("view", "missing"),
    "picture": ("draw", "missing.safetensors", "a.png"),
    "circuits": ("compare", "one.safetensors", "two.safetensors"),
    "option": ("find", "--magic"),
    "command": ("magic",),
    "bench file": ("bench", "missing.yaml"),
    "bench method": ("bench", "method.yaml"),
    "bench setting": ("bench", "setting.yaml"),
    "bench metric": ("bench", "metric.yaml"),
    "table": ("plot", "missing.parquet", "--out", "a.png"),
    "configuration": ("plan", "--config", "missing.json"),
    "settings of a method": ("methods", "magic"),
    "plugin": ("--plugin", "missing.py", "methods"),
}


def _run(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, timeout=120, cwd=folder, check=True
    ).stdout


@pytest.mark.parametrize("arguments", [("--help",), ("find", "--help"), ("methods",), ("methods", "acdc")], ids=str)
def test_help_needs_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]):
    assert _run(tmp_path, *arguments).endswith("ended 0, imported []\n")


@pytest.mark.parametrize("what", WRONG)
def test_a_refusal_needs_nothing_heavy(tmp_path: Path, what: str):
    (tmp_path / "method.yaml").write_text(BENCH + "magic\n")
    (tmp_path / "setting.yaml").write_text(BENCH + "{method: eap, magic: 1}\n")
    (tmp_path / "metric.yaml").write_text(BENCH + "eap\nmetrics: magic\n")
    assert _run(tmp_path, *WRONG[what]).endswith("ended 2, imported []\n")
