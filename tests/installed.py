"""What `make dist` runs in an environment that holds the wheel and what pip brought for it, nothing else, in a folder
outside the tree: everything imports, and the commands work without a download.
"""

import importlib
import pkgutil
import subprocess
import sys
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
    "view found --no-open",
    "find --model tracr:reverse --task program --steps 2 --out learned",
)


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


def main() -> None:
    """Run all; the first that fails ends it."""
    check_place()
    print(f"{check_imports()} public names")
    with TemporaryDirectory() as folder:
        for command in COMMANDS:
            words = [sys.executable, "-m", "edgewise", *command.split()]
            done = subprocess.run(words, cwd=folder, text=True, capture_output=True)
            print(f"edgewise {command}: {done.returncode}")
            assert done.returncode == 0, done.stdout + done.stderr
        assert (Path(folder) / "found" / "circuit.html").stat().st_size > 100_000


if __name__ == "__main__":
    main()
