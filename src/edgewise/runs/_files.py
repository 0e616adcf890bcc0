"""Writing files whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from edgewise._errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it becomes `path`, on any error it is removed.

    The temporary file lies in the same folder, because only a rename within one file system is atomic.

    Raises:
        InputError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose a folder that can") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: cannot be written ({reason}); nothing was changed there") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, whole or not at all. Raises `InputError` as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


class SavedAsJson:
    """A dataclass that is written as JSON."""

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(_plain(self), indent=2, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_atomically(path, self.to_json() + "\n")


def _plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses and named tuples as mappings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        return [_plain(each) for each in value] if names is None else dict(zip(names, map(_plain, value), strict=True))
    return value


def user_path(given: str | Path) -> Path:
    """A path as a user wrote it, with `~` for the home folder; `~name` stays where no user has that name, which
    `Path.expanduser` raises for.
    """
    return Path(os.path.expanduser(given))


def _umask() -> int:
    # The process's umask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_file(path: str | Path) -> None:
    """Check that a file could be written there, before the work whose end it is.

    Raises:
        InputError: there is a folder of that name, or its own folder cannot be made or written.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; give a file")
    check_writable(Path(path).parent)


def check_writable(folder: str | Path) -> None:
    """Make a folder and write to it, so that a run does not find out at its end that it cannot.

    Raises:
        InputError: the folder cannot be made or written.
    """
    with atomic_path(Path(folder) / ".writable") as temporary:
        temporary.write_bytes(b"\n")
    (Path(folder) / ".writable").unlink(missing_ok=True)
