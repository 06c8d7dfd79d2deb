"""One process at a time holds a data folder; the lock file says where that process listens."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from lorikeet_adapters.errors import StoreLocked

NAME = "lock"


def holder_url(folder: Path) -> str | None:
    """The URL of the process that holds this data folder; None when nobody does or it has no URL yet."""
    try:
        with (folder / NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().decode() or None
    except FileNotFoundError:
        pass
    return None


def hold(folder: Path) -> BinaryIO:
    """Take the folder until the file is closed. Raises StoreLocked with the holder's URL."""
    file = os.fdopen(os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        url = file.read().decode()
        file.close()
        raise StoreLocked(url or None) from None
    file.truncate(0)
    return file
