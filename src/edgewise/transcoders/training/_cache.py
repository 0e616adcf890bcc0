"""Activations on disk: one flat file a site, mapped into memory, beside the tokens they belong to.

A cached row gives the very numbers that the model gave (in float32; rounded otherwise), so a run from a cache and a run
from the model differ in time alone.
"""

import json
import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.transcoders import Site, TokenRows
from edgewise.transcoders.training._activations import LiveActivations

_INDEX, _IDS = "activations.json", "ids.npy"
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ROWS = 32  # written at a time


class CachedActivations:
    """Activations read from a cache's files. Nothing is loaded before it is asked for."""

    def __init__(self, folder: str | Path, sites: Sequence[Site] | None = None) -> None:
        """Open a cache.

        Args:
            folder: what `write_cache` wrote.
            sites: those that will be asked for; all if None.

        Raises:
            InputError: it is no cache, a file is missing or cut short, or a site is not in it.
        """
        self.folder: Path = Path(folder)
        try:
            self.header: dict[str, Any] = json.loads((self.folder / _INDEX).read_text(encoding="utf-8"))
            self.ids: Tensor = torch.from_numpy(np.load(self.folder / _IDS, allow_pickle=False).astype(np.int64))
            stored = [Site.parse(key) for key in self.header["sites"]]
            self.width, self.dtype = int(self.header["width"]), _TYPES[self.header["dtype"]]
        except Exception as error:  # numpy raises what a damaged header leads to: SyntaxError, TokenError
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{folder}: not a cache of activations ({reason}); write one with `cache`") from error
        self.sites = tuple(stored if sites is None else sites)
        if missing := [site for site in self.sites if site not in stored]:
            raise InputError(f"{folder}: does not hold {missing[0]}; it holds {', '.join(map(str, stored))}")
        size = self.ids.numel() * self.width * self.dtype.itemsize
        for site in self.sites:
            path = _path(self.folder, site)
            if not path.is_file() or path.stat().st_size != size:
                raise InputError(f"{path}: missing or cut short ({size:,} bytes are wanted); write the cache anew")
        shape = (*self.ids.shape, self.width)
        map_file = partial(torch.from_file, shared=False, size=math.prod(shape), dtype=self.dtype)
        self._files = {site: map_file(str(_path(self.folder, site))).view(shape) for site in self.sites}

    def rows(self, index: Int[Tensor, " n"]) -> dict[Site, Float[Tensor, "n S D"]]:
        """The vectors of some rows, as float32."""
        return {site: file[index].float() for site, file in self._files.items()}


def write_cache(
    model: Model,
    tokens: TokenRows,
    sites: Sequence[Site],
    folder: str | Path,
    *,
    dtype: str = "float32",
    bf16: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CachedActivations:
    """Run the model once over all rows and keep the vectors at sites. The folder appears when it is whole.

    Args:
        model: the model.
        tokens: the rows.
        sites: which vectors.
        folder: where; it must not exist.
        dtype: float32, bfloat16 or float16; of what is stored.
        bf16: products with the model's weights in bfloat16.
        progress: called with the rows done and all rows.

    Raises:
        InputError: the folder exists, the disk is too small, or a site is not the model's.
    """
    folder = Path(folder)
    if dtype not in _TYPES:
        raise InputError(f"dtype {dtype!r}: choose {', '.join(_TYPES)}")
    if folder.exists():
        raise InputError(f"{folder}: exists already; remove it or choose another folder")
    source = LiveActivations(model, tokens.ids, sites, bf16=bf16)
    width = model.parts.d_model
    size = tokens.n_tokens * width * _TYPES[dtype].itemsize * len(source.sites)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    try:
        temporary.mkdir(parents=True)
        if (free := shutil.disk_usage(temporary).free) < size:
            raise InputError(f"{folder}: the cache needs {size >> 20:,} MB and {free >> 20:,} MB are free")
        _fill(source, temporary, _TYPES[dtype], progress)
        np.save(temporary / _IDS, tokens.ids.numpy().astype(np.int32))
        header = {
            "sites": [site.key for site in source.sites],
            "width": width,
            "dtype": dtype,
            "model": model.identity,
            "tokens": tokens.source,
            "low": bf16,
        }
        (temporary / _INDEX).write_text(json.dumps(header, indent=2), encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); nothing was left there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return CachedActivations(folder)


def _fill(source: LiveActivations, folder: Path, dtype: torch.dtype, progress: Callable[[int, int], None]) -> None:
    with ExitStack() as stack:
        files = {site: stack.enter_context(open(_path(folder, site), "wb")) for site in source.sites}
        for rows in torch.arange(len(source.ids)).split(_ROWS):
            for site, x in source.rows(rows).items():
                files[site].write(x.to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
            progress(int(rows[-1]) + 1, len(source.ids))


def _path(folder: Path, site: Site) -> Path:
    return folder / f"{site.key}.bin"
