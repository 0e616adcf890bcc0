"""Files that want to do harm, and a process that may take no more than so much memory and time."""

import io
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests import shapes

SECONDS = 10
"""Of the processor's time."""


class Runs:
    """What is unpickled by calling a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def gadgets(marker: Path) -> dict[str, Any]:
    """Objects that make a file when they are unpickled, or would run code of another kind."""
    import builtins
    import subprocess
    from importlib import import_module

    made = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "subprocess": Runs(subprocess.check_output, ["touch", str(marker)]),
        "exec": Runs(builtins.exec, made),
        "eval": Runs(builtins.eval, made),
        "open": Runs(builtins.open, str(marker), "w"),
        "getattr": Runs(builtins.getattr, "x", "upper"),
        "import": Runs(import_module, "antigravity"),
        "torch.load": Runs(torch.load, str(marker)),
        "torch.hub": Runs(torch.hub.load, "nobody/nothing", "x"),
        "in a dictionary": {"W_enc": torch.zeros(2, 2), "cfg": Runs(os.system, f"touch {marker}")},
        "in a list": [1, [Runs(os.system, f"touch {marker}")]],
    }


def torch_file(path: Path, content: Any) -> Path:
    """As `torch.save` writes it, whatever it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def plain_pickle(path: Path, content: Any) -> Path:
    """A pickle alone, as old versions wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def packed(path: Path, n_bytes: int) -> Path:
    """An archive like that of `torch.save`, whose one tensor is zeros, packed."""
    whole = io.BytesIO()
    torch.save({"W_enc": torch.zeros(4)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if "/data/" in entry.filename:
                with target.open(entry.filename, "w", force_zip64=True) as out:
                    for _ in range(n_bytes >> 20):
                        out.write(bytes(1 << 20))
            else:
                target.writestr(entry.filename, source.read(entry))
    return path


def packed_array(path: Path, n: int) -> Path:
    """A `.npz` with `n` zeros for each of a transcoder's tensors, packed."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n},), }}".ljust(117) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
                out.write(start)
                for _ in range(n * 4 >> 20):
                    out.write(bytes(1 << 20))
    return path


def repeated(levels: int = 40) -> list[Any]:
    """A list that is small in memory and `2 ** levels` long when it is written out."""
    found: list[Any] = ["x"]
    for _ in range(levels):
        found = [found, found]
    return found


def within_limits(call: Callable[[], Any], gigabytes: float = 1.0) -> str:
    """What a call is refused with, in a process that may take so much more memory and ten seconds.

    Raises:
        AssertionError: it took more, or ended in anything but a refusal of one line.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        os.write(send, _answer(call, gigabytes).encode()[:4000])
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the process ended with {status}"
    assert said.startswith("refused: "), said
    assert "\n" not in said
    return said.removeprefix("refused: ")


def _answer(call: Callable[[], Any], gigabytes: float) -> str:
    from edgewise import InputError

    # The tests' own checks of annotations walk through what they are given.
    shapes.Checks.run = lambda self, function, args, kwargs: function(*args, **kwargs)  # pyright: ignore
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * 2**30), resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))  # a fork begins at none
    try:
        call()
    except InputError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"
