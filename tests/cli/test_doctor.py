"""`edgewise doctor`: what it says of this machine, and its advice on others."""

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from edgewise.cli import _doctor
from edgewise.cli._machine import Cache, Machine
from edgewise.cli._packages import Package, packages
from tests.cli.commands import Cli

GOOD = Machine("a processor", 4, 4, True, {"float32": 100.0, "bfloat16": 200.0}, 16 * 10**9, 12 * 10**9, (), False)
ROOM = Cache(Path("cache"), 10**9, 10**11, True)


def kinds(said: Iterable[_doctor.Advice]) -> list[str]:
    return [each.kind for each in said]


def test_this_machine_in_lines_and_as_json(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").write_bytes(bytes(1234))
    began = time.monotonic()
    ran = cli("doctor")
    assert time.monotonic() - began < 10
    assert ran.status == 0 and ran.err == "", ran
    assert f"torch {version('torch')}" in ran.out and str(tmp_path / "cache") in ran.out
    row = json.loads(cli("doctor", "--json").out)
    assert row["cache"]["size"] == 1234 and row["machine"]["threads"] == torch.get_num_threads()
    assert all(speed > 0 for speed in row["machine"]["speed"].values())
    assert 0 < row["machine"]["free_memory"] <= row["machine"]["memory"]
    assert row["environment"]["HF_HUB_OFFLINE"] == "1"


def test_a_cache_that_cannot_be_written_ends_with_1(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("EDGEWISE_CACHE", str(blocked / "cache"))
    ran = cli("doctor")
    assert ran.status == 1 and "EDGEWISE_CACHE" in ran.out.split("broken")[1]


def test_packages_are_held_against_what_is_wanted():
    found = packages(
        [
            "torch>=2",
            "torch>=1000",
            "no-such-package>=1",
            'rich>=1; extra == "plot"',
            "also-missing; extra == 'plot'",
            "a; extra == 'dev'",
        ]
    )
    assert [(each.name, each.extra, each.fits) for each in found] == [
        ("torch", None, True),
        ("torch", None, False),
        ("no-such-package", None, False),
        ("rich", "plot", True),
        ("also-missing", "plot", False),
    ]
    said = list(_doctor.of_packages(found, "1"))
    assert kinds(said) == ["broken", "broken"]  # an extra that was not asked for is no fault
    assert "torch>=1000" in said[0].text and "is missing" in said[1].text
    assert kinds(_doctor.of_packages([], None)) == ["note"]


def test_an_installation_without_pytorch_is_told_so(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_doctor, "packages", lambda: [Package("torch", None, ">=2.6", None, False)])
    ran = cli("doctor")
    assert ran.status == 1 and "pip install 'torch>=2.6'" in ran.out


@pytest.mark.parametrize(
    ("changes", "environment", "said"),
    [
        ({}, {}, None),
        ({"threads": 1}, {"OMP_NUM_THREADS": "1"}, "OMP_NUM_THREADS=1 keeps PyTorch on 1 of 4 cores"),
        ({"threads": 2}, {}, None),  # PyTorch's own choice
        ({"threads": 64}, {}, "set OMP_NUM_THREADS=4"),
        ({"bfloat16": False}, {}, "--dtype bf16"),
        ({"driver": True}, {}, "PyTorch 2.6 sees no GPU"),
        ({"driver": True, "gpus": ("cuda:0, some, 80 GiB",)}, {}, "--device cuda"),
        ({"gpus": ("mps",)}, {}, "not been tested"),
    ],
)
def test_advice_on_a_processor(changes: dict[str, object], environment: dict[str, str], said: str | None):
    found = list(_doctor.of_processor(replace(GOOD, **changes), "2.6", environment))  # pyright: ignore[reportArgumentType]
    assert len(found) == (said is not None)
    assert said is None or said in found[0].text


def test_advice_on_memory_and_disk():
    assert kinds(_doctor.of_room(GOOD, ROOM)) == []
    assert kinds(_doctor.of_room(replace(GOOD, free_memory=10**9), ROOM)) == ["slow"]
    assert kinds(_doctor.of_room(replace(GOOD, free_memory=None), ROOM)) == []
    full = replace(ROOM, size=0, free=10**6)
    assert kinds(_doctor.of_room(GOOD, full)) == ["broken"]
    assert kinds(_doctor.of_room(GOOD, replace(full, size=10**9))) == []  # the model is there already
