"""Names of several things in one page."""

from collections.abc import Sequence
from pathlib import Path

_DEEPEST = 3
"""So many folders are named at most."""


def told_apart(names: Sequence[str], paths: Sequence[Path | None]) -> list[str]:
    """Names that differ: those that repeat with the folder above, such as `a/ioi` and `b/ioi`.

    Args:
        names: each a file's or its folder's.
        paths: the file or folder of each; None for what has none, which keeps its name.
    """
    above = [_above(name, path) for name, path in zip(names, paths, strict=True)]

    def named(depth: int) -> list[str]:
        folders = [
            found[:depth][::-1] if names.count(name) > 1 else [] for name, found in zip(names, above, strict=True)
        ]
        return ["/".join([*found, name]) for name, found in zip(names, folders, strict=True)]

    return next((found for found in map(named, range(1, _DEEPEST + 1)) if len({*found}) == len(found)), named(1))


def _above(name: str, path: Path | None) -> list[str]:
    """The names of the folders above what a name is of, the nearest first."""
    if path is None:
        return []
    path = path.resolve()
    folders = [path, *path.parents] if path.is_dir() else [*path.parents]
    return [each.name for each in folders[name == folders[0].name :] if each.name]
