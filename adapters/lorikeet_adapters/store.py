"""Where adapters live on disk: content-addressed blobs and one SQLite catalogue.

Write order: the blobs, whole and synced, then INSERT and COMMIT, then the caller may acknowledge. So a
kill at any point loses nothing acknowledged and shows nothing half-written; what a kill leaves behind
is swept at the next start.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from lorikeet_adapters.arrival import Arrival, Intake
from lorikeet_adapters.blobs import Blobs
from lorikeet_adapters.catalogue import Catalogue
from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.lock import announce, hold
from lorikeet_adapters.notes import Notes
from lorikeet_adapters.stored import StoredGeneration

log = logging.getLogger("lorikeet")
CATALOGUE = "catalogue.sqlite"
# What may lie in a folder that becomes a data folder: what a start that was cut short leaves, what a
# fresh volume has, and the server's keys. Names that begin with a dot may, too.
HARMLESS = frozenset({"lock", "lock-turn", "incoming", "blobs", "lost+found", "keys.toml"})
MAX_BLOB_BYTES = 16 << 30


@dataclass(frozen=True, slots=True)
class Incoming:
    """Blobs on their way in: held until the admission that brings them is over."""

    blobs: Blobs
    limit: int
    digests: list[str] = field(default_factory=list)

    def put(self, source: BinaryIO | Arrival) -> str:
        """Copy a stream in, or take over a file that has arrived; returns its SHA-256. Raises BlobTooLarge."""
        self.digests.append(self.blobs.put(source, self.limit))
        return self.digests[-1]


class Store:
    """One process at a time holds a folder. Every method may be called from any thread."""

    def __init__(self, folder: Path, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.max_blob_bytes = max_blob_bytes
        self._lock_file = hold(folder)
        with ExitStack() as undo:
            undo.callback(self._lock_file.close)
            self.catalogue = Catalogue(folder / CATALOGUE)
            undo.callback(self.catalogue.close)
            self.intake = Intake(folder / "incoming")
            self.blobs = Blobs(folder, self.intake, self.catalogue.blobs)
            self.notes = Notes(self.catalogue)
            self.catalogue.sweep()
            self.swept = self.intake.sweep() + self.blobs.sweep()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.catalogue.close()
        self._lock_file.close()

    def announce(self, url: str) -> None:
        """Write into the lock where the holder listens, so that a command can send its work there."""
        announce(self._lock_file, url)

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """Blobs put inside stay if the catalogue needs them by the end, and are deleted if it does not."""
        arriving = Incoming(self.blobs, self.max_blob_bytes)
        try:
            yield arriving
        finally:
            for digest in arriving.digests:
                try:
                    self.blobs.let_go(digest)
                except (OSError, sqlite3.Error) as error:  # what was decided about the adapter stands
                    log.warning("cannot tidy up a blob, the next start will: %s", error)

    def free(self, generation: StoredGeneration) -> int:
        """Delete a generation that no name keeps; returns the bytes given back.

        Raises StoreError when that fails; what is left is unused, and swept at the next start.
        """
        try:
            self.catalogue.forget(generation.generation)
            return self.blobs.discard(generation.blobs)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot free the generation {generation.generation[:12]}") from error


def open_store(folder: Path, max_blob_bytes: int = MAX_BLOB_BYTES) -> Store:
    """Raises StoreError when the folder cannot be made, read or written, or is somebody else's, StoreLocked when in use."""
    try:
        _refuse_foreign(folder)
        return Store(folder, max_blob_bytes)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot use the data folder {folder}: {reason}; choose another --data-dir"
        ) from error


def _refuse_foreign(folder: Path) -> None:
    """A folder that is full of other things is a mistyped name far more often than a choice."""
    if not folder.is_dir() or (folder / CATALOGUE).exists():
        return
    strangers = sorted(
        each.name for each in folder.iterdir() if each.name not in HARMLESS and not each.name.startswith(".")
    )
    if strangers:
        raise StoreError(
            f"{folder} is no data folder: it holds {strangers[0]!r} and no {CATALOGUE}; "
            "choose another --data-dir, missing or empty"
        )
