"""Everybody's transcoders: one way to read them, from wherever they are, and one to write them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from edgewise._errors import InputError
from edgewise.transcoders._sites import Site
from edgewise.transcoders._transcoder import Transcoder
from edgewise.transcoders.formats import (
    _authors,
    _circuit_tracer,
    _dictionary_learning,
    _gemma_scope,
    _native,
    _saelens,
    _sparsify,
)
from edgewise.transcoders.formats._foreign import Sites, tensors_of

WEIGHTS = (".safetensors", ".pt", ".npz")
"""How files of weights end."""


@dataclass(frozen=True)
class Format:
    """One tool's files."""

    what: str
    finds: Callable[[Path], bool]
    """Whether a file or folder is of this format, by its names alone (or a file's header)."""
    read: Callable[[Path, Sites], list[Transcoder]]
    write: Callable[[Sequence[Transcoder], Path], None]


def _read_native(path: Path, sites: Sites) -> list[Transcoder]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found = [_native.load(file) for file in files if file.name != "checkpoint.safetensors"]
    for each in found:  # these files know their sites: another one named is a mistake
        for what, named, own in (
            ("reads", sites.reads, each.spec.reads),
            ("writes", sites.writes, each.spec.writes[0]),
        ):
            if named not in (None, own):
                raise InputError(f"{path}: it {what} {own} and says so; {named} was named")
    return sorted(found, key=lambda each: each.spec.writes[0].layer)


def _write_native(transcoders: Sequence[Transcoder], path: Path) -> None:
    if len(transcoders) == 1 and path.suffix == ".safetensors":
        _native.save(transcoders[0], path)
        return
    for each in transcoders:
        _native.save(each, path / f"layer{each.spec.reads.layer}.safetensors")


def _keys(path: Path) -> set[str]:
    """The names of a `.safetensors` file's tensors, and of its header's entries."""
    try:
        with safe_open(path, framework="pt") as file:
            return {*file.keys(), *(file.metadata() or {})}
    except (OSError, SafetensorError):
        return set()


def _is_native(path: Path) -> bool:
    if path.is_dir():
        return any(_is_native(file) for file in path.glob("*.safetensors"))
    return path.suffix == ".safetensors" and "edgewise.transcoder" in _keys(path)


def _is_circuit_tracer(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in ("config.yaml", "layer_0.safetensors", "W_enc_0.safetensors"))
    return path.suffix == ".safetensors" and {"W_enc", "W_dec", "b_enc", "b_dec"} <= _keys(path)


def _is_gemma_scope_2(path: Path) -> bool:
    if path.is_dir():
        return (path / "params.safetensors").is_file() or any(map(_is_gemma_scope_2, path.glob("*.safetensors")))
    return path.suffix == ".safetensors" and "w_enc" in _keys(path)


FORMATS: dict[str, Format] = {
    "edgewise": Format("one .safetensors with a header, or a folder of them", _is_native, _read_native, _write_native),
    "authors": Format(
        "the paper's authors' .pt: relu", lambda path: path.suffix == ".pt", _authors.read, _authors.write
    ),
    "saelens": Format(
        "SAELens 6 folder: relu, jumprelu (batch_topk); autoencoders also topk",
        lambda path: (path / "sae_weights.safetensors").is_file(),
        _saelens.read,
        _saelens.write,
    ),
    "sparsify": Format(
        "sparsify folder: topk", lambda path: bool(_sparsify.found_in(path)), _sparsify.read, _sparsify.write
    ),
    "circuit-tracer": Format(
        "circuit-tracer file or folder, per layer or cross-layer: relu, jumprelu, its topk",
        _is_circuit_tracer,
        _circuit_tracer.read,
        _circuit_tracer.write,
    ),
    "gemma-scope": Format(
        "Gemma Scope 1 params.npz: jumprelu",
        lambda path: path.suffix == ".npz" or (path / "params.npz").is_file(),
        _gemma_scope.read_npz,
        _gemma_scope.write_npz,
    ),
    "gemma-scope-2": Format(
        "Gemma Scope 2 params.safetensors, or a cross-layer folder: jumprelu",
        _is_gemma_scope_2,
        _gemma_scope.read,
        _gemma_scope.write,
    ),
    "dictionary-learning": Format(
        "dictionary_learning folder: autoencoders",
        lambda path: (path / "ae.pt").is_file(),
        _dictionary_learning.read,
        _dictionary_learning.write,
    ),
}
"""By name."""


def read(
    source: str | Path, format: str | None = None, *, reads: Site | None = None, writes: Site | None = None
) -> list[Transcoder]:
    """Read transcoders of any format.

    Args:
        source: a file, a folder, or a hub id: `org/name`, with `/folder` and `@revision` if wanted (or `hf://…`).
        format: a key of `FORMATS`; found out if None.
        reads: the site read, where the files do not say it or say it wrongly.
        writes: the site written, likewise.

    Returns:
        One transcoder, or a whole set in the order of its layers.

    Raises:
        InputError: there is nothing there, it is of no known format, or it is cut short, misshapen or not finite.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"format {format!r}: choose {', '.join(FORMATS)}")
    path = local(str(source))
    name = format or next((name for name, each in FORMATS.items() if each.finds(path)), None)
    if name is None:
        inner = [each for each in sorted(path.glob("*/")) if any(f.finds(each) for f in FORMATS.values())]
        hint = f"; give {inner[0]}" if inner else f" ({', '.join(FORMATS)})"
        if path.suffix == ".safetensors":
            tensors_of(path)  # which says so if it is cut short
        raise InputError(f"{source}: of no format that is known{hint}")
    try:
        found = FORMATS[name].read(path, Sites(reads, writes))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: not as {name} writes it ({type(error).__name__}: {reason[:120]})") from error
    for each in found:
        each.name = each.name or path.stem
    return found


def unlike(transcoders: Sequence[Transcoder], path: Path, format: str) -> list[str]:
    """How what `write` wrote reads back as something else: another activation kind, a bias folded away."""
    if format == "edgewise":
        return []
    sites: dict[str, Site] = {}
    if len(transcoders) == 1 and len(transcoders[0].spec.writes) == 1:  # a set's files say their layers
        sites = {"reads": transcoders[0].spec.reads, "writes": transcoders[0].spec.writes[0]}
    layers = {each.spec.reads.layer: each for each in read(path, format, **sites)}
    notes = dict[str, None]()  # in order, each once
    for each in transcoders:
        again = layers[each.spec.reads.layer]
        if again.spec.activation != each.spec.activation:
            notes[f"{format} reads {each.spec.activation} back as {again.spec.activation}"] = None
        if each.b_in is not None and (again.b_in is None or not torch.equal(each.b_in, again.b_in)):
            notes[f"{format} has no such input bias: it is folded into b_enc, which rounds"] = None
    return list(notes)


def write(transcoders: Transcoder | Sequence[Transcoder], path: str | Path, format: str = "edgewise") -> None:
    """Write transcoders in any format.

    Args:
        transcoders: one, or a set where the format has sets.
        path: the file or folder, as the format has it.
        format: a key of `FORMATS`.

    Raises:
        InputError: the format cannot hold them, or the place cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r}: choose {', '.join(FORMATS)}")
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    if not given:
        raise InputError("write: give at least one transcoder")
    layers = [each.spec.reads.layer for each in given]
    if again := [layer for layer in layers if layers.count(layer) > 1]:
        raise InputError(f"write: two are of layer {again[0]}, which would be one file; write one at a time")
    FORMATS[format].write(given, Path(path))


def local(source: str) -> Path:
    """Where a file or folder lies on this machine; what is on the hub is fetched first. Raises `InputError`."""
    path = Path(source).expanduser()
    on_disk = source.startswith((".", "/", "~")) or "/" not in source or path.parent.is_dir()
    on_disk = on_disk or (source.count("/") == 1 and path.suffix in WEIGHTS)  # no repository is called so
    if not source.startswith("hf://") and (path.exists() or on_disk):
        if not path.exists():
            raise InputError(
                f"{source}: no such file or folder; give one, or a hub id (hf://org/name[/folder][@revision])"
            )
        return path
    name = source.removeprefix("hf://").replace("?revision=", "@")
    place, _, revision = name.partition("@")
    organisation, repository, *inner = [*place.split("/"), ""]
    if not (organisation and repository):
        raise InputError(f"{source}: no hub id; write org/name[/folder][@revision]")
    inner = inner[:-1]
    return _fetch(f"{organisation}/{repository}", "/".join(inner), revision or None, source)


def _fetch(repository: str, inner: str, revision: str | None, source: str) -> Path:
    from huggingface_hub import snapshot_download

    if not inner:
        _check_top(repository, revision, source)
    patterns = [inner, f"{inner}/*"] if inner else None
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=patterns)
    except Exception as error:  # the hub client raises many kinds; the user needs one line
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: neither here nor on the hub ({reason[:160]})") from error
    path = Path(folder) / inner
    if not path.exists():
        raise InputError(f"{source}: the repository holds no {inner}")
    return path


def _check_top(repository: str, revision: str | None, source: str) -> None:
    """Refuse a repository of folders before all of it, hundreds of gigabytes it may be, is fetched."""
    from huggingface_hub import list_repo_files

    try:
        names = list_repo_files(repository, revision=revision)
    except Exception:  # no connection: what was fetched before may be all there, and else the fetching says why
        return
    weights = [name for name in names if name.endswith(WEIGHTS)]
    near = [name for name in weights if "/" not in name or re.fullmatch(r"[^/]+/sae\.safetensors", name)]
    if weights and not near and "config.yaml" not in names:  # which lists what lies deeper
        folder, at = weights[0].rpartition("/")[0], f"@{revision}" if revision else ""
        raise InputError(
            f"{source}: its weights ({len(weights):,} files) lie in folders; name one, such as "
            f"{repository}/{folder}{at}"
        )
