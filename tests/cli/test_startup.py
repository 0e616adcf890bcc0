"""The command line starts without PyTorch: help and refusals come at once."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

HEAVY = ("torch", "transformers", "scipy", "matplotlib")
RUN = f"""
import contextlib, io, json, os, sys
from edgewise.cli import main

runs = json.loads(sys.argv[1])

# What light modules these need is imported once for all; nothing heavy may come with it.
for arguments in (["methods", "acdc"], ["find", "--method", "magic"], ["bench", "missing.yaml"]):
    sys.argv = ["edgewise", *arguments]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()

def run(arguments, folder):
    os.chdir(folder)
    os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT), 1)
    sys.argv = ["edgewise", *arguments]
    try:
        main()
    except SystemExit as ended:
        found = [name for name in {HEAVY!r} if name in sys.modules]
        print(f"\\nended {{ended.code or 0}}, imported {{found}}")

for arguments, folder in runs:
    child = os.fork()
    if not child:
        try:
            run(arguments, folder)
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)
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


HELP = (("--help",), ("find", "--help"), ("methods",), ("methods", "acdc"))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[Sequence[str], str]:
    """What the command line says and how it ends, each time in a process of its own and a folder with benches."""
    folders = {arguments: tmp_path_factory.mktemp("folder") for arguments in (*HELP, *WRONG.values())}
    for folder in folders.values():
        (folder / "method.yaml").write_text(BENCH + "magic\n")
        (folder / "setting.yaml").write_text(BENCH + "{method: eap, magic: 1}\n")
        (folder / "metric.yaml").write_text(BENCH + "eap\nmetrics: magic\n")
    runs = json.dumps([(arguments, str(folder)) for arguments, folder in folders.items()])
    subprocess.run([sys.executable, "-c", RUN, runs], stderr=subprocess.DEVNULL, timeout=600, check=True)
    return {arguments: (folder / "said").read_text() for arguments, folder in folders.items()}


@pytest.mark.parametrize("arguments", HELP, ids=str)
def test_help_needs_nothing_heavy(said: dict[Sequence[str], str], arguments: tuple[str, ...]):
    assert said[arguments].endswith("ended 0, imported []\n")


@pytest.mark.parametrize("what", WRONG)
def test_a_refusal_needs_nothing_heavy(said: dict[Sequence[str], str], what: str):
    assert said[WRONG[what]].endswith("ended 2, imported []\n")
