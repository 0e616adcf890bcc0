"""A page for each transcoder's features."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewise._errors import InputError
from edgewise.runs import check_writable, write_atomically
from edgewise.transcoders import FeatureSet
from edgewise.viewer._feature_sets import ShownSet
from edgewise.viewer._page import page


def write_dashboards(
    sets: Sequence[FeatureSet], out: str | Path, *, labels: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """Write one HTML file for each set, `NAME.html`. Each needs no server and no network; features of other layers lead
    to those layers' pages.

    Args:
        sets: what `make_dashboards` gave.
        out: the folder.
        labels: words for features by their names (see `read_labels`).

    Raises:
        InputError: two sets have one name, or a file cannot be written.
    """
    files = {found.layer: f"{found.name}.html" for found in sets}
    if len(set(files.values())) < len(sets):
        raise InputError("dashboard: two sets have one name; write each to a folder of its own")
    check_writable(out)
    paths = list[Path]()
    for found in sets:
        own = {name: label for name, label in (labels or {}).items() if name.startswith(f"m{found.layer}.f")}
        paths.append(Path(out) / files[found.layer])
        write_atomically(paths[-1], page([ShownSet(found, own, files)], title=found.name))
    return tuple(paths)
