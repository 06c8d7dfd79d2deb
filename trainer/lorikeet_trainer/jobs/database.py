"""One SQLite file, one connection, one transaction at a time; when a transaction is over, it survives a kill."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorikeet_adapters.errors import StoreError

MIGRATIONS = (
    """
    CREATE TABLE files (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, purpose TEXT NOT NULL, filename TEXT NOT NULL,
        bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, created REAL NOT NULL, expires REAL
    ) STRICT;
    CREATE TABLE jobs (
        place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
        state TEXT NOT NULL, asked TEXT NOT NULL, attempt INTEGER NOT NULL, progress TEXT NOT NULL,
        outcome TEXT NOT NULL, lease TEXT, heard REAL, created REAL NOT NULL, started REAL, finished REAL,
        idempotency TEXT, digest TEXT, UNIQUE (owner, idempotency)
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (state, place);
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL REFERENCES jobs (id), at REAL NOT NULL,
        level TEXT NOT NULL, message TEXT NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_job ON events (job, id);
    CREATE TABLE checkpoints (
        job TEXT NOT NULL REFERENCES jobs (id), step INTEGER NOT NULL, id TEXT NOT NULL UNIQUE,
        folder TEXT NOT NULL, name TEXT NOT NULL, metrics TEXT NOT NULL, served INTEGER NOT NULL,
        created REAL NOT NULL, PRIMARY KEY (job, step)
    ) STRICT;
    """,
)


class Database:
    """Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.RLock()
        self._depth = 0
        self._connection = _connect(path)

    def close(self) -> None:
        with self._guard:
            self._connection.close()

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._guard:
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is read inside is still so when it is written. One within another is part of it."""
        with self._guard:
            self._depth += 1
            try:
                if self._depth > 1:
                    yield self._connection
                else:
                    with self._connection:
                        yield self._connection
            finally:
                self._depth -= 1


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        _prepare(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreError(
            f"the jobs of the data folder cannot be read: {error}; restore {path.name}"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """No write-ahead log: it does not work on network file systems, and a line a second is no load."""
    connection.execute("PRAGMA journal_mode = TRUNCATE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the jobs of the data folder have schema version {version}, this Lorikeet knows up to "
            f"{len(MIGRATIONS)}; use a newer one, or choose another --data-dir"
        )
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;")
