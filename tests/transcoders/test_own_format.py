"""A file format of a user's own is one file and one call: the example of docs/extending.md, in Python and the shell."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise import InputError, _plugins
from edgewise.transcoders import FORMATS, Format, Site, Transcoder, read, register_format, write
from tests.cli.commands import Cli
from tests.transcoders.reference import random_transcoder

FILE = Path(__file__).with_name("own_format.py")
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is gone after it."""
    monkeypatch.setitem(FORMATS, "lab", FORMATS["edgewise"])
    del FORMATS["lab"]


@pytest.fixture
def registered() -> None:
    runpy.run_path(str(FILE))


def _made(**changes: Any) -> Transcoder:
    return random_transcoder("relu", n_features=32, layer=3, dtype=torch.float32, **changes)


@pytest.mark.usefixtures("registered")
def test_it_reads_back_what_it_wrote(tmp_path):
    transcoder = _made(reads="resid_mid")
    write(transcoder, tmp_path / "t", "lab")
    (again,) = read(tmp_path / "t")  # the format is found out
    assert again.spec == transcoder.spec and again.name == "t" and again.provenance["format"] == "lab"
    for name, tensor in transcoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    (other,) = read(tmp_path / "t", reads=Site("mlp_in", 5), writes=Site("mlp_out", 5))
    assert other.spec.reads == Site("mlp_in", 5)


@pytest.mark.usefixtures("registered")
def test_what_is_wrong_is_one_line(tmp_path):
    with pytest.raises(InputError, match="lab: the format has no skip connection"):
        write(_made(skip=True), tmp_path / "t", "lab")
    write(_made(), tmp_path / "t", "lab")
    (tmp_path / "t" / "lab.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="not a whole"):
        read(tmp_path / "t")
    with pytest.raises(InputError, match="'lab': there is one of that name"):
        register_format(Format("lab", "", lambda _: False, lambda *_: [], lambda *_: None))


def test_the_page_shows_the_file():
    text = PAGE.read_text().split("## Add a file format\n")[1].split("\n## ")[0]
    shown = [line.removeprefix("    ").rstrip() for line in text.splitlines() if line.startswith("    ")]
    code = [line.rstrip() for line in FILE.read_text().splitlines()[2:] if line.strip()]
    assert [line for line in shown if line][: len(code)] == code


def test_the_command_line_takes_it_as_a_plugin(tmp_path, capfd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_plugins, "_done", set())
    monkeypatch.setenv(_plugins.VARIABLE, "")
    cli, ours = Cli(capfd, monkeypatch), tmp_path / "layer_3.safetensors"
    write(_made(), ours)
    ran = cli("--plugin", FILE, "transcoder", "convert", ours, tmp_path / "t", "--to", "lab")
    assert ran.status == 0 and (tmp_path / "t" / "lab.json").is_file(), ran
    assert "our lab's folder" in cli("--plugin", FILE, "transcoder", "formats").out
