"""The project's own file: one `.safetensors` whose JSON header says which sites, which activation, where from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.models import weights_hash
from edgewise.runs import names_in, reading_tensors, record_of, write_tensors
from edgewise.transcoders import Site, Transcoder, TranscoderSpec
from edgewise.transcoders.formats._files import build
from edgewise.transcoders.formats._format import Format, Sites

_SCHEMA = 1
_HEADER = "edgewise.transcoder"


def save(transcoder: Transcoder, path: str | Path) -> None:
    """Write a transcoder, whole or not at all. Raises `InputError` if it cannot be written."""
    header = {"schema": _SCHEMA, "spec": transcoder.spec.to_dict(), "provenance": transcoder.provenance}
    write_tensors(path, transcoder.state_dict(), header, entry=_HEADER)


def load(path: str | Path, *, exclude_special: bool | None = None) -> Transcoder:
    """Read a transcoder that `save` wrote.

    Args:
        path: the file.
        exclude_special: see `TranscoderSpec`; only for a file of version 0.1 that has lost the record of its training.

    Raises:
        InputError: there is no such file, or it is not one (or not a whole one).
    """
    path = Path(path)
    what, instead = "a transcoder of edgewise, or not a whole one", "give a transcoder's .safetensors"
    with reading_tensors(path, what, instead, entry=_HEADER, schema=_SCHEMA) as (header, tensors):
        known = {} if "exclude_special" in header["spec"] else {"exclude_special": _of_0_1(header, exclude_special)}
        transcoder = build(TranscoderSpec.from_dict(header["spec"] | known), tensors, path)
        transcoder.provenance, transcoder.name = header["provenance"], path.stem
    return transcoder


def _of_0_1(header: dict[str, Any], given: bool | None) -> bool:
    """What files of version 0.1 say in the record of their training, and those of other tools need not say."""
    provenance = header["provenance"]
    recorded = record_of(provenance, "method").get("exclude_special", False if "format" in provenance else given)
    if recorded is None:
        raise InputError(
            "written by edgewise 0.1, and the record of its training is lost, so that nothing says whether its "
            "features count special tokens; give load(..., exclude_special=True) or False"
        )
    return recorded


def _read(path: Path, sites: Sites) -> list[Transcoder]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found = [load(file) for file in files if file.name != "checkpoint.safetensors"]
    for each in found:  # these files know their sites, and the tokens that they were trained on
        made_here, said = "format" not in each.provenance, each.spec.exclude_special
        if made_here and sites.exclude_special not in (None, said):
            raise InputError(f"{path}: it says exclude_special={said}; {sites.exclude_special} was given")
        for what, named, own in (
            ("reads", sites.reads, each.spec.reads),
            ("writes", sites.writes, each.spec.writes[0]),
        ):
            if named is not None and len(found) > 1:  # of a set the kind alone is named
                named = replace(named, layer=own.layer)
            if what == "reads" and named is not None and _is_hook_of(named, own):
                each.spec = replace(each.spec, reads=named)
            elif named not in (None, own):
                raise InputError(f"{path}: it {what} {own} and says so; {named} was named")
    return sorted(found, key=lambda each: each.spec.writes[0].layer)


def _is_hook_of(named: Site, own: Site) -> bool:
    """Whether it is the hook that a site is in some models, as the user knows who names it."""
    return named == replace(own, kind="hook_normalized") and own.kind in ("mlp_normalized", "mlp_in")


def _write(transcoders: Sequence[Transcoder], path: Path) -> None:
    if len(transcoders) == 1 and path.suffix == ".safetensors":
        save(transcoders[0], path)
        return
    for each in transcoders:
        save(each, path / _file(each))


def _file(transcoder: Transcoder) -> str:
    return f"layer{transcoder.spec.reads.layer}.safetensors"


def _left(transcoders: Sequence[Transcoder], path: Path) -> list[Path]:
    written = set(map(_file, transcoders))
    return [file for file in path.glob("*.safetensors") if file.name not in written and _is_ours(file)]


def trained_others(transcoders: Sequence[Transcoder], path: Path) -> Path | None:
    """A file in a folder that holds what a training or a tuning made, which no conversion would make again, and none of
    these transcoders; None if there is none.
    """
    same = set(map(weights_hash, transcoders))
    found = ((file, load(file)) for file in sorted(path.glob("*.safetensors")) if _is_ours(file))
    trained = (file for file, each in found if record_of(each.provenance, "method") and weights_hash(each) not in same)
    return next(trained, None)


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return any(_is_ours(file) for file in path.glob("*.safetensors"))
    return path.suffix == ".safetensors" and _HEADER in names_in(path)


FORMAT = Format("edgewise", "one .safetensors with a header, or a folder of them", _is_ours, _read, _write, _left)
