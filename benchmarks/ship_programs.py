"""Compile the programs that come with the package anew: `python benchmarks/ship_programs.py` (with the extra tracr)."""

from pathlib import Path

from edgewise.models import SHIPPED, save_compiled
from edgewise.models._compiled import find_compiled
from edgewise.tracr import compile_library

for shipped in SHIPPED:
    path = find_compiled(shipped)
    assert isinstance(path, Path)
    save_compiled(compile_library(shipped.removeprefix("tracr:")), path)
    print(f"{shipped}: {path.stat().st_size:,} bytes")
