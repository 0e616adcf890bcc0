"""What a file format is, and the sites that a user may name beside its files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgewise.transcoders import Site, Transcoder


@dataclass(frozen=True)
class Sites:
    """What the user says, where a file does not (or wrongly)."""

    reads: Site | None = None
    writes: Site | None = None
    exclude_special: bool | None = None
    """See `TranscoderSpec`."""

    def in_set(self, layer: int, n_transcoders: int) -> "Sites":
        """Those of one transcoder of several: of the kinds named, in its own layer. Of one alone as they are."""
        if n_transcoders == 1:
            return self
        reads, writes = (site and replace(site, layer=layer) for site in (self.reads, self.writes))
        return replace(self, reads=reads, writes=writes)


@dataclass(frozen=True)
class Format:
    """One tool's files."""

    name: str
    what: str
    """Which files, and which activations they can hold."""
    finds: Callable[[Path], bool]
    """Whether a file or folder is of this format, by its names alone (or a file's header)."""
    read: Callable[[Path, Sites], list[Transcoder]]
    """Raises `InputError`; what else it raises for a file that is not as it should be becomes one."""
    write: Callable[[Sequence[Transcoder], Path], None]
    """Raises `InputError` for what the format cannot hold."""
    left: Callable[[Sequence[Transcoder], Path], list[Path]] = lambda _transcoders, _path: []
    """The files of other sets that `write` would leave in a folder, and that `read` would read with these or instead.
    None by default: the format has one file, which is written over."""
