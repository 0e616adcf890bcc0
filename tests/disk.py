"""A disk that is nearly full."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def little_disk(n_bytes: int) -> Iterator[None]:
    """Within it, no file grows beyond so many bytes: the system refuses to write more, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # otherwise the process is killed
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
