"""The picture of loss against sparsity."""

from pathlib import Path

import pytest

from edgewise import InputError
from edgewise.report import Tradeoff, tradeoff

POINTS = [
    Tradeoff(kind, active, loss, loss - 0.01, loss + 0.01)
    for kind, active, loss in (("transcoder", 8, 3.4), ("transcoder", 32, 3.3), ("_sae $x$", 16, 3.5))
]


def test_equal_points_give_equal_files_in_any_order(tmp_path: Path):
    for name, points in (("a.svg", POINTS), ("b.svg", [POINTS[1], POINTS[0], POINTS[2]])):
        tradeoff(points, tmp_path / name, references=[("the model itself", 3.2)], caption="long words " * 40)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_point_without_an_interval_has_no_band(tmp_path: Path):
    bare = [each._replace(low=None, high=None) for each in POINTS]
    paths = []
    for points in (bare, [*bare[:2], POINTS[2]], POINTS):
        tradeoff(points, tmp_path / "a.svg")
        paths.append((tmp_path / "a.svg").read_text().count("<path"))
    assert paths[0] < paths[1] < paths[2]


def test_what_cannot_be_drawn_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no points"):
        tradeoff([], tmp_path / "a.svg")
    with pytest.raises(InputError, match="0 active features"):
        tradeoff([POINTS[0]._replace(active=0)], tmp_path / "a.svg")
