import re
from xml.etree import ElementTree

import pytest

from edgewise._errors import InputError
from edgewise.evaluation import Point
from edgewise.report import curve

POINTS = [
    Point("EAP", 7065, 0.79, 0.7, 0.9),
    Point("EAP", 706, 2.66, 2.2, 3.1),
    Point("learned ranking", 706, 0.247, 0.2, 0.3),
    Point("learned ranking", 7065, 0.09, 0.08, 0.1),
    Point("Edge Pruning", 1413, 0.2, 0.15, 0.3),
    Point("no interval", 1413, 0.5),
]


@pytest.mark.parametrize("log", [False, True])
def test_files_are_valid_and_the_same_each_time(tmp_path, log):
    for name in ("a.svg", "b.svg", "a.png"):
        curve(POINTS, tmp_path / name, total=70651, full=0.0 if not log else None, empty=4.04, log=log, dpi=50)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    for part in ("learned ranking", "empty circuit (4.04)", "sparsity (of 70,651 edges)", "99 %"):
        assert part in text


@pytest.mark.parametrize("edges", [(3, 4), (4,), (3, 4, 5, 6), (700, 720, 740)])
def test_ticks_of_a_small_range_are_whole_numbers_told_apart(tmp_path, edges):
    curve([Point("eap", n, 1.0 / n) for n in edges], tmp_path / "a.svg")
    ticks = (tmp_path / "a.svg").read_text(encoding="utf-8").partition('id="matplotlib.axis_1"')[2]
    names = re.findall("<!-- ([\\d,]+) -->", ticks.partition('id="matplotlib.axis_2"')[0])
    assert names and len({*names}) == len(names) and {int(each) for each in names} <= {*edges, 3, 5, 10}


def test_names_are_shown_literally(tmp_path):
    points = [Point("_$a$ <b>", 10, 1.0, 0.5, 2.0), Point("", 20, 1.0)]
    curve(points, tmp_path / "a.svg", measure="$KL$ <x>", title="$t", caption="$c$ & <d>")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    for part in ("_$a$", "$KL$", "$t", "$c$"):
        assert part in text


@pytest.mark.parametrize(
    ("points", "log", "message"),
    [
        ([], False, "no points"),
        ([Point("EAP", 0, 1.0)], False, "EAP at 0 edges"),
        ([Point("EAP", 5, float("nan"))], False, "value nan"),
        ([Point("EAP", 5, 0.0)], True, "log=False"),
    ],
)
def test_points_without_a_place_are_refused(tmp_path, points, log, message):
    with pytest.raises(InputError, match=message):
        curve(points, tmp_path / "a.svg", log=log)
    assert not list(tmp_path.iterdir())
