"""Content-addressed files: a blob's name is the SHA-256 of what it holds.

Write order: temporary file, fsync, rename, fsync of the folder. Only then may a catalogue name it.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from lorikeet_adapters.arrival import Arrival, Intake
from lorikeet_adapters.errors import StoreError

DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The files of one data folder. Every method may be called from any thread.

    `referenced()` answers which digests the catalogue needs; nothing it needs and nothing `put` and not
    yet `let_go` is ever deleted.
    """

    def __init__(self, folder: Path, intake: Intake, referenced: Callable[[], frozenset[str]]) -> None:
        self._blobs = folder / "blobs" / "sha256"
        self._intake = intake
        self._referenced = referenced
        self._guard = threading.Lock()  # between "is it there" and what is done about it
        self._held: Counter[str] = Counter()
        self._blobs.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where a blob lies. Raises StoreError unless `digest` is 64 lower-case hex digits."""
        if not DIGEST.fullmatch(digest):
            raise StoreError("a content address is 64 lower-case hexadecimal digits")
        return self._blobs / digest[:2] / digest

    def put(self, source: BinaryIO | Arrival, limit: int) -> str:
        """Make a blob of a stream, or of a file that has arrived, and hold it; returns its SHA-256.

        A stream is copied, an arrival renamed. The same bytes again take the place of those that are
        there, so that bringing them once more mends a blob that was damaged. Raises BlobTooLarge beyond
        `limit` bytes, and then keeps nothing.
        """
        with self._intake.take(source, limit) as arrival:
            digest = arrival.seal()
            self._settle(arrival.path, digest)
        return digest

    def let_go(self, digest: str) -> None:
        """The counterpart of `put`: from here on the catalogue alone says whether the blob is needed."""
        with self._guard:
            self._held.subtract([digest])
            self._held += Counter()  # forget what has come to zero
        self.discard([digest])

    def discard(self, digests: Iterable[str]) -> int:
        """Delete these blobs unless they are needed; returns the bytes given back."""
        with self._guard:
            unused = set(digests) - self._referenced() - self._held.keys()
            return sum(_drop(self.path(each)) for each in sorted(unused) if self.path(each).exists())

    def sweep(self) -> int:
        """Remove what a kill left behind; returns the bytes given back. Before anything is put."""
        names = [blob.name for blob in self._blobs.glob("*/*")]
        return self.discard(name for name in names if DIGEST.fullmatch(name))

    def _settle(self, temporary: Path, digest: str) -> None:
        target = self.path(digest)
        with self._guard:
            target.parent.mkdir(exist_ok=True)
            _fsync_folder(target.parent.parent)
            temporary.rename(target)
            _fsync_folder(target.parent)
            self._held[digest] += 1


def _drop(path: Path) -> int:
    size = path.stat().st_size
    path.unlink()
    return size


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
