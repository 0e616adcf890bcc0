"""Everybody's transcoders: one way to read them, from wherever they are, and one to write them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edgewise._errors import InputError
from edgewise.transcoders import Site, Transcoder
from edgewise.transcoders.formats import (
    _authors,
    _circuit_tracer,
    _dictionary_learning,
    _gemma_scope,
    _native,
    _saelens,
    _sparsify,
)
from edgewise.transcoders.formats._files import tensors_of
from edgewise.transcoders.formats._format import Format, Sites
from edgewise.transcoders.formats._site_names import NAME_THEM
from edgewise.transcoders.formats._source import local

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        _native.FORMAT,
        _authors.FORMAT,
        _saelens.FORMAT,
        _sparsify.FORMAT,
        _circuit_tracer.FORMAT,
        _gemma_scope.FORMAT,
        _gemma_scope.FORMAT_2,
        _dictionary_learning.FORMAT,
    )
}
"""By name, in the order in which a file is tried. A new format is one file and a line here, or `register_format`."""


def register_format(format: Format) -> None:
    """Add a format to those that `read` and `write` know; a file is tried with it after all others.

    Raises:
        InputError: there is one of that name.
    """
    if format.name in FORMATS:
        raise InputError(f"format {format.name!r}: there is one of that name; choose another than {', '.join(FORMATS)}")
    FORMATS[format.name] = format


def _known(format: str) -> None:
    if format not in FORMATS:
        raise InputError(f"format {format!r}: choose {', '.join(FORMATS)}")


def read(
    source: str | Path,
    format: str | None = None,
    *,
    reads: Site | None = None,
    writes: Site | None = None,
    exclude_special: bool | None = None,
) -> list[Transcoder]:
    """Read transcoders of any format.

    Args:
        source: a file, a folder, or a hub id: `org/name`, with `/folder` and `@revision` if wanted (or `hf://…`).
        format: a key of `FORMATS`; found out if None.
        reads: the site read, where the files do not say it or say it wrongly. Of several transcoders its kind alone
            counts: each keeps its own layer.
        writes: the site written, likewise.
        exclude_special: whether its features are off at special tokens and the first of each row (see
            `TranscoderSpec`); None for what the file says, and where it says nothing no. (circuit-tracer, whose files
            do not say it, leaves out the first position of every prompt, of Gemma 3's instruct models the first
            four.)

    Returns:
        One transcoder, or a whole set in the order of its layers.

    Raises:
        InputError: there is nothing there, it is of no known format, or it is cut short, misshapen or not finite.
    """
    if format is not None:
        _known(format)
    path = local(str(source))
    name = format or next((each.name for each in FORMATS.values() if each.finds(path)), None)
    if name is None:
        inner = [each for each in sorted(path.glob("*/")) if any(f.finds(each) for f in FORMATS.values())]
        hint = f"; give {inner[0]}" if inner else f" ({', '.join(FORMATS)})"
        if path.suffix == ".safetensors":
            tensors_of(path)  # which says so if it is cut short
        raise InputError(f"{source}: of no format that is known{hint}")
    try:
        found = FORMATS[name].read(path, Sites(reads, writes, exclude_special))
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: not as {name} writes it ({type(error).__name__}: {reason[:120]})") from error
    for each in found:
        if len(found) > 1:  # of a set each by its layer, or all would have the folder's name
            each.name = each.name or f"{path.resolve().name}.layer{each.spec.reads.layer}"
        each.name = each.name or path.stem
        if exclude_special is not None:
            each.spec = replace(each.spec, exclude_special=exclude_special)
    return found


def write(
    transcoders: Transcoder | Sequence[Transcoder], path: str | Path, format: str = "edgewise", *, force: bool = False
) -> None:
    """Write transcoders in any format.

    Args:
        transcoders: one, or a set where the format has sets.
        path: the file or folder, as the format has it.
        format: a key of `FORMATS`.
        force: remove files of another set of the format that lie in the folder, once this one is written; but none
            that edgewise trained.

    Raises:
        InputError: the format cannot hold them, the place cannot be written, or files of another set lie there, which
            would be read with this one or in its place.
    """
    _known(format)
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    if not given:
        raise InputError("write: give at least one transcoder")
    layers = [each.spec.reads.layer for each in given]
    if again := [layer for layer in layers if layers.count(layer) > 1]:
        raise InputError(f"write: two are of layer {again[0]}, which would be one file; write one at a time")
    left = _left(given, Path(path), format, force)
    FORMATS[format].write(given, Path(path))
    for file in left:
        file.unlink()


def _left(transcoders: Sequence[Transcoder], path: Path, format: str, force: bool) -> list[Path]:
    """Files of another set in a folder, to be removed once this one is written.

    Raises:
        InputError: there are some and they must not be removed, or the folder is one of another format.
    """
    if not path.is_dir():
        return []
    other = next((each.name for each in FORMATS.values() if each.finds(path)), format)
    if other != format:  # which may be the one that is then read; what all of its files are is not known here
        raise InputError(f"{path}: holds files of {other}, and of two formats one would be read; choose another folder")
    left = sorted(FORMATS[format].left(transcoders, path))
    if trained := None if format != "edgewise" else _native.trained_others(transcoders, path):
        raise InputError(f"{path}: holds {trained.name}, which was trained and would be lost; choose another folder")
    if left and not force:
        raise InputError(
            f"{path}: holds {left[0].relative_to(path)}, of another set, which would be read too or instead; choose "
            "another folder, or force=True to remove it"
        )
    return left


def round_trip_differences(transcoders: Sequence[Transcoder], path: Path, format: str) -> list[str]:
    """How what `write` wrote reads back as something else: other sites, another activation kind, a bias folded away."""
    if format == "edgewise":
        return []
    notes = dict[str, None]()  # in order, each once
    found = _read_back(transcoders, path, format, notes)
    for each, again in zip(sorted(transcoders, key=_layer), sorted(found, key=_layer), strict=True):
        if again.spec.activation != each.spec.activation:
            notes[f"{format} reads {each.spec.activation} back as {again.spec.activation}"] = None
        if again.spec.exclude_special != each.spec.exclude_special:
            what = "was made without special and first tokens" if each.spec.exclude_special else "counts all tokens"
            notes[f"{format} does not say that it {what}"] = None
        if each.b_in is not None and (again.b_in is None or not torch.equal(each.b_in, again.b_in)):
            notes[f"{format} has no such input bias: it is folded into b_enc, which rounds"] = None
    return list(notes)


def _read_back(transcoders: Sequence[Transcoder], path: Path, format: str, notes: dict[str, None]) -> list[Transcoder]:
    """What a file says without anybody's help, or with the sites named, of which there is a note then."""
    spec = transcoders[0].spec
    if max(len(transcoders), len(spec.writes)) > 1:
        return read(path, format)  # a set's files say their layers
    try:
        found = read(path, format)
        if (found[0].spec.reads, found[0].spec.writes) == (spec.reads, spec.writes):
            return found
        notes[f"{path}: reads back with other sites; {NAME_THEM}"] = None
    except InputError as error:
        notes[str(error)] = None
    return read(path, format, reads=spec.reads, writes=spec.writes[0])


def _layer(transcoder: Transcoder) -> int:
    return transcoder.spec.reads.layer
