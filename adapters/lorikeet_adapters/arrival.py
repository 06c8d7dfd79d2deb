"""Where bytes wait inside the data folder until they are checked: gone at the end unless the store took them."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from lorikeet_adapters.errors import BlobTooLarge

CHUNK = 1 << 20


class Arrival:
    """One file on its way in: hashed while it is written, removed at the end of `with` unless it was renamed away.

    One thread at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._open = ExitStack()
        self._file = self._open.enter_context(path.open("xb"))
        self._sealed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with suppress(OSError):  # what was buffered finds no room: the file goes anyway
                self._open.close()
        finally:
            self.path.unlink(missing_ok=True)

    def write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)

    def seal(self) -> str:
        """Nothing more comes: bring the bytes to the disk, read-only, and return their SHA-256."""
        if not self._sealed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._open.close()
            self.path.chmod(0o444)
            self._sealed = True
        return self._digest.hexdigest()


class Intake:
    """The folder of unfinished files. Every method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def file(self) -> Arrival:
        return Arrival(self._folder / uuid.uuid4().hex)

    @contextmanager
    def take(self, source: BinaryIO | Arrival, limit: int) -> Iterator[Arrival]:
        """A copy of a stream, for as long as `with` lasts; a file that has arrived is the caller's own and stays.

        Raises BlobTooLarge beyond `limit` bytes.
        """
        if isinstance(source, Arrival):
            _check_size(source.size, limit)
            yield source
            return
        with self.file() as copy:
            while chunk := source.read(CHUNK):
                _check_size(copy.size + len(chunk), limit)
                copy.write(chunk)
            yield copy

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of the caller's own, removed with all that is in it."""
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what stays is swept at the next start

    def sweep(self) -> int:
        """Remove what a kill left behind; returns the bytes given back."""
        freed = 0
        for leftover in self._folder.iterdir():
            files = leftover.rglob("*") if leftover.is_dir() and not leftover.is_symlink() else [leftover]
            freed += sum(each.lstat().st_size for each in files)
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        return freed


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BlobTooLarge(limit)
