"""One process at a time holds a data folder; the lock file says where that process listens.

Whoever looks takes the lock for a moment to learn whether it is free. So that nobody who wants to hold
the folder takes such a look for a holder, both take turns at a second file, for as long as they ask.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lorikeet_adapters.errors import StoreLocked

NAME = "lock"
TURN = "lock-turn"


def holder_url(folder: Path) -> str | None:
    """The URL of the process that holds this data folder; None when nobody does or it has no URL yet."""
    try:
        with _turn(folder), (folder / NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _url(file)
    except FileNotFoundError:
        pass
    return None


def hold(folder: Path) -> BinaryIO:
    """Take the folder until the file is closed. Raises StoreLocked with the holder's URL."""
    file = os.fdopen(os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        with _turn(folder, os.O_CREAT):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
    except BlockingIOError:
        url = _url(file)
        file.close()
        raise StoreLocked(url) from None
    except BaseException:
        file.close()
        raise
    return file


def announce(file: BinaryIO, url: str) -> None:
    """Say in a held lock where the holder listens; in one write, so that nobody reads half of it."""
    os.pwrite(file.fileno(), url.encode() + b"\n", 0)


@contextmanager
def _turn(folder: Path, create: int = 0) -> Iterator[None]:
    handle = os.open(folder / TURN, os.O_RDWR | create, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _url(file: BinaryIO) -> str | None:
    return file.read().partition(b"\n")[0].decode() or None
