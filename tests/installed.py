"""What `make dist` runs in an environment that holds the wheel and what pip brought for it, nothing else, in a folder
outside the tree: everything imports, and the commands work without a download. With `demo`, where the default model and
the extra `plot` are installed too, the commands of `edgewise demo` at a small size.
"""

import importlib
import pkgutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import edgewise

OPTIONAL = {"matplotlib", "datasets", "pyarrow", "tracr", "jax", "haiku", "tensorboard", "wandb", "networkx"}
"""What only extras bring, and modules may need when they are imported."""
COMMANDS = (
    "--version",
    "doctor",
    "methods",
    "tasks list",
    "models check tracr:reverse",
    "find --model tracr:reverse --task program --method eap --sparsity 0.5 --out found",
    "evaluate found/circuit.safetensors --baselines none",
    "mib found/circuit.safetensors --metric accuracy",
    "view found --no-open",
    "find --model tracr:reverse --task program --steps 2 --out learned",
)
DEMO = (
    "find --steps 2 --batch-size 4 --train 8 --validation 4 --test 4 --out demo",
    "evaluate demo/circuit.safetensors",
    "curve demo/circuit.safetensors demo/curve.png --sparsities 0.9,0.98",
    "draw demo/circuit.safetensors demo/circuit.png",
    "draw demo/circuit.safetensors demo/circuit.svg",
    "view demo --evidence 2 --no-open",
)
"""Those of `edgewise demo`; the model is converted first, where it never was."""


def check_place() -> None:
    """The package is the installed one, and whole."""
    folder = Path(edgewise.__file__).parent
    assert folder.is_relative_to(sys.prefix), f"{folder} is not in {sys.prefix}"
    assert edgewise.__version__ == version("edgewise")
    for name in ("py.typed", "__init__.pyi", "exchange/published.json", "cli/scores.md"):
        assert (folder / name).is_file(), f"{name} is not in the wheel"


def check_imports() -> int:
    """Every module can be imported, or lacks what an extra brings; every public name is there."""
    n = 0
    for module in pkgutil.walk_packages(edgewise.__path__, "edgewise."):
        if module.name != "edgewise.__main__":
            try:
                loaded = importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] in OPTIONAL:
                    continue
                raise
            n += len([getattr(loaded, name) for name in getattr(loaded, "__all__", ())])
    return n


def run(commands: Iterable[str], page: str) -> None:
    """Run the commands in an empty folder; the first that fails ends it. The last ones write the page."""
    with TemporaryDirectory() as folder:
        for command in commands:
            words = [sys.executable, "-m", "edgewise", *command.split()]
            begun = time.perf_counter()
            done = subprocess.run(words, cwd=folder, text=True, capture_output=True)
            print(f"edgewise {command}: {done.returncode}, {time.perf_counter() - begun:.0f} s", flush=True)
            assert done.returncode == 0, done.stdout + done.stderr
        assert (Path(folder) / page).stat().st_size > 100_000


def main() -> None:
    """Run all; the first that fails ends it."""
    check_place()
    if sys.argv[1:] == ["demo"]:
        run(DEMO, "demo/circuit.html")
    else:
        print(f"{check_imports()} public names")
        run(COMMANDS, "found/circuit.html")


if __name__ == "__main__":
    main()
