"""Files are written whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from edgewise import InputError
from edgewise.runs import _files, atomic_path, check_file, check_writable, write_atomically
from tests.disk import little_disk


def _only(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_bytes_and_text_arrive(tmp_path):
    write_atomically(tmp_path / "a.bin", b"\x00\xff")
    write_atomically(str(tmp_path / "b.txt"), "κ\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b.txt").read_bytes() == "κ\n".encode()
    assert _only(tmp_path, "a.bin", "b.txt")


def test_folders_are_made_and_files_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "file.json"
    for text in ("a longer text", "short"):
        write_atomically(path, text)
        assert path.read_text() == text
    assert _only(path.parent, "file.json")


def test_until_it_is_whole_the_old_file_stands(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == path.suffix
        temporary.write_text("half of the ne")
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert _only(tmp_path, "file.txt")


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_within_leaves_everything_as_it_was(tmp_path, error: BaseException):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert path.read_text() == "old"
    assert _only(tmp_path, "file.txt")


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_system_that_refuses_leaves_everything_as_it_was(tmp_path, monkeypatch, call: str):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def refuse(*_arguments, **_choices):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_files.os, call, refuse)
    with pytest.raises(InputError, match=r"file.txt: cannot be written \(No space left on device\)"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert _only(tmp_path, "file.txt")


def test_a_full_disk_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with little_disk(1000), pytest.raises(InputError, match="file.txt: cannot be written") as caught:
        write_atomically(path, "x" * 5000)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert _only(tmp_path, "file.txt")
    with little_disk(1000):
        write_atomically(path, "y" * 500)  # and what fits is written
    assert path.read_text() == "y" * 500


def test_where_no_file_can_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "in.txt", tmp_path / "folder", Path("/dev/null/in.txt"), tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="cannot be written") as caught:
            write_atomically(path, "text")
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert _only(tmp_path, "file", "folder") and _only(tmp_path / "folder")


def test_a_file_has_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file.txt", "text")  # not the 0600 of a temporary file
    finally:
        assert os.umask(before) == 0o027  # left as it was
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_what_is_on_the_disk_is_synced_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(_files.os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    write_atomically(tmp_path / "file.txt", "text")
    assert calls == ["fsync", "replace"]


def test_a_folder_is_checked_before_the_work(tmp_path):
    check_writable(tmp_path / "new")
    assert _only(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "file")
    with little_disk(0), pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "new")
    assert _only(tmp_path / "new")


def test_a_file_is_checked_before_the_work(tmp_path):
    check_file(tmp_path / "new" / "e.json")
    assert _only(tmp_path / "new")
    (tmp_path / "new" / "e.json").write_text("mine")
    check_file(tmp_path / "new" / "e.json")
    with pytest.raises(InputError, match="new: is a folder; give a file"):
        check_file(tmp_path / "new")
    with pytest.raises(InputError, match="cannot be written"):
        check_file(tmp_path / "new" / "e.json" / "f.json")
    assert _only(tmp_path / "new", "e.json")
