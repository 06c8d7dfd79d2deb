"""Where adapters live on disk: content-addressed blobs and one SQLite catalogue.

Write order: temporary file, fsync, rename, fsync of the folder, INSERT and COMMIT, then the caller
may acknowledge. So a kill at any point loses nothing acknowledged and shows nothing half-written;
what a kill leaves behind is swept at the next start.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from lorikeet_adapters.arrival import Arrival, Intake
from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.lock import hold

CATALOGUE = "catalogue.sqlite"
DIGEST = re.compile(r"[0-9a-f]{64}")
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE generations (
    generation TEXT PRIMARY KEY, config TEXT NOT NULL, weights TEXT NOT NULL, facts TEXT NOT NULL
) STRICT;
CREATE TABLE names (
    name TEXT PRIMARY KEY, generation TEXT NOT NULL REFERENCES generations, details TEXT NOT NULL, created REAL NOT NULL
) STRICT;
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE history (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, generation TEXT NOT NULL, event TEXT NOT NULL, at REAL NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """`facts` is what was learned when the files were checked: rank, bytes, targets, warnings."""

    generation: str
    config: str
    weights: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredName:
    """`details` is what the operator said: source, metadata. `created` in seconds since the epoch."""

    name: str
    generation: str
    details: dict[str, Any]
    created: float


class Store:
    """One writer. Every method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self.intake = Intake(folder / "incoming")
        self._lock_file = hold(folder)
        self._guard = threading.Lock()
        with ExitStack() as undo:
            undo.callback(self._lock_file.close)
            self._catalogue = _open_catalogue(folder / CATALOGUE)
            undo.callback(self._catalogue.close)
            self.swept = self._sweep()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._catalogue.close()
        self._lock_file.close()

    def announce(self, url: str) -> None:
        """Write into the lock where the holder listens, so that a command can send its work there."""
        self._lock_file.seek(0)
        self._lock_file.truncate()
        self._lock_file.write(url.encode())
        self._lock_file.flush()

    def put(self, source: BinaryIO | Arrival) -> str:
        """Make a blob of a stream, or of a file that has arrived, and return its SHA-256.

        A stream is copied, an arrival renamed. Safe to call twice with the same bytes.
        """
        with self.intake.take(source) as arrival:
            self._settle(arrival.path, arrival.seal())
            return arrival.seal()

    def path(self, digest: str) -> Path:
        """Where a blob lies. Raises StoreError unless `digest` is 64 lower-case hex digits."""
        if not DIGEST.fullmatch(digest):
            raise StoreError("a content address is 64 lower-case hexadecimal digits")
        return self._blobs / digest[:2] / digest

    def commit(self, generation: StoredGeneration, name: StoredName, event: str) -> None:
        """Make `name` point at `generation`. When this returns, it survives a kill."""
        with self._transaction() as catalogue:
            catalogue.execute(
                "INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?)",
                (generation.generation, generation.config, generation.weights, json.dumps(generation.facts)),
            )
            catalogue.execute(
                "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)",
                (name.name, name.generation, json.dumps(name.details), name.created),
            )
            _record(catalogue, name.name, generation.generation, event)

    def remove(self, name: str) -> None:
        """Forget a name; its blobs go with `free` once nobody uses them."""
        with self._transaction() as catalogue:
            row = catalogue.execute(
                "DELETE FROM names WHERE name = ? RETURNING generation", (name,)
            ).fetchone()
            if row is not None:
                _record(catalogue, name, row[0], "deleted")

    def free(self, generation: str) -> int:
        """Delete a generation no name points at; returns the bytes given back.

        Raises StoreError when that fails; what is left is unused, and swept at the next start.
        """
        try:
            with self._transaction() as catalogue:
                named = catalogue.execute(
                    "SELECT 1 FROM names WHERE generation = ?", (generation,)
                ).fetchone()
                if named is not None:
                    return 0
                row = catalogue.execute(
                    "DELETE FROM generations WHERE generation = ? RETURNING config, weights", (generation,)
                ).fetchone()
            return self.discard(*row) if row else 0
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot free the generation {generation[:12]}") from error

    def discard(self, *digests: str) -> int:
        """Delete these blobs unless a generation needs them; returns the bytes given back."""
        unused = set(digests) - self._referenced()
        return sum(_drop(self.path(digest)) for digest in unused if self.path(digest).exists())

    def remember_base(self, source: str, name: str) -> None:
        """Which base the folder was last served with, for commands that work without a server."""
        self._set("base", [source, name])

    def base(self) -> tuple[str, str] | None:
        """(source, name) of the base last served, or None."""
        found = self._setting("base")
        return None if found is None else tuple(found)

    def remember_embedded(self, generations: Mapping[str, str]) -> None:
        """Which adapters of Lorikeet's own this folder was given, by name."""
        self._set("embedded", dict(generations))

    def embedded(self) -> dict[str, str]:
        return dict(self._setting("embedded") or {})

    def names(self) -> list[StoredName]:
        with self._guard:
            rows = self._catalogue.execute(
                "SELECT name, generation, details, created FROM names ORDER BY name"
            ).fetchall()
        return [
            StoredName(name, generation, json.loads(details), created)
            for name, generation, details, created in rows
        ]

    def generations(self) -> dict[str, StoredGeneration]:
        with self._guard:
            rows = self._catalogue.execute(
                "SELECT generation, config, weights, facts FROM generations"
            ).fetchall()
        return {row[0]: StoredGeneration(row[0], row[1], row[2], json.loads(row[3])) for row in rows}

    def _set(self, key: str, value: object) -> None:
        with self._transaction() as catalogue:
            catalogue.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def _setting(self, key: str) -> Any:
        with self._guard:
            row = self._catalogue.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard, self._catalogue:
            yield self._catalogue

    def _settle(self, temporary: Path, digest: str) -> None:
        target = self.path(digest)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            _fsync_folder(target.parent.parent)
            temporary.rename(target)
        _fsync_folder(target.parent)

    def _referenced(self) -> frozenset[str]:
        return frozenset(d for stored in self.generations().values() for d in (stored.config, stored.weights))

    def _sweep(self) -> int:
        """Remove what a kill left behind; returns the bytes given back."""
        with self._transaction() as catalogue:
            catalogue.execute(
                "DELETE FROM generations WHERE generation NOT IN (SELECT generation FROM names)"
            )
        freed = self.intake.sweep()
        names = (blob.name for blob in self._blobs.glob("*/*"))
        return freed + self.discard(*(name for name in names if DIGEST.fullmatch(name)))


def open_store(folder: Path) -> Store:
    """Raises StoreError when the folder cannot be made, read or written, StoreLocked when it is in use."""
    try:
        return Store(folder)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot use the data folder {folder}: {reason}; choose another --data-dir"
        ) from error


def _open_catalogue(path: Path) -> sqlite3.Connection:
    catalogue = sqlite3.connect(path, check_same_thread=False)
    try:
        _prepare(catalogue)
    except sqlite3.DatabaseError as error:
        catalogue.close()
        raise StoreError(
            f"the catalogue cannot be read: {error}; restore it, or choose another --data-dir"
        ) from error
    except StoreError:
        catalogue.close()
        raise
    return catalogue


def _prepare(catalogue: sqlite3.Connection) -> None:
    catalogue.execute("PRAGMA journal_mode = WAL")
    catalogue.execute("PRAGMA synchronous = FULL")
    catalogue.execute("PRAGMA foreign_keys = ON")
    (version,) = catalogue.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the catalogue has schema version {version}, this Lorikeet knows up to {SCHEMA_VERSION}; "
            "use a newer one, or choose another --data-dir"
        )
    if version == 0:
        catalogue.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _record(catalogue: sqlite3.Connection, name: str, generation: str, event: str) -> None:
    catalogue.execute(
        "INSERT INTO history (name, generation, event, at) VALUES (?, ?, ?, ?)",
        (name, generation, event, time.time()),
    )


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
