"""One SQLite file that only its owner can read, one connection, one transaction at a time.

What a transaction wrote survives a kill; what it removed is overwritten.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorikeet_adapters.errors import StoreError
from lorikeet_server.errors import ServerBusy

# What is looked through comes before the texts: to read it none of their pages is read.
MIGRATIONS = (
    """
    CREATE TABLE requests (
        place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created REAL NOT NULL,
        tenant TEXT NOT NULL, model TEXT NOT NULL, rating TEXT NOT NULL, bytes INTEGER NOT NULL,
        key TEXT NOT NULL, route TEXT NOT NULL, mix TEXT NOT NULL, finish_reason TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, total_s REAL NOT NULL,
        messages TEXT, prompt TEXT, answer TEXT NOT NULL, correction TEXT NOT NULL
    ) STRICT;
    CREATE INDEX requests_by_tenant ON requests (tenant, place);
    CREATE INDEX requests_by_age ON requests (created);
    """,
)
PATIENCE_S = 1.0  # for another process that holds the file, as a copy being made; meanwhile records wait


class Database:
    """Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._connection = _connect(path)
        (self._page,) = self._connection.execute("PRAGMA page_size").fetchone()

    def close(self) -> None:
        with self._guard:
            self._connection.close()

    def read(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self._guard, _in_words():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard, _in_words(), self._connection:
            yield self._connection

    def used(self, rows: sqlite3.Connection) -> int:
        """Bytes of the file that hold something, inside a transaction."""
        ((pages,),) = rows.execute("PRAGMA page_count").fetchall()
        ((free,),) = rows.execute("PRAGMA freelist_count").fetchall()
        return int((pages - free) * self._page)

    def shrink(self) -> None:
        """Give pages that hold nothing back to the file system; `execute` would give back one."""
        with self._guard:
            self._connection.executescript("PRAGMA incremental_vacuum")


@contextmanager
def _in_words() -> Iterator[None]:
    """A disk that is full, or a file that another process holds, costs who asks this one answer. Raises ServerBusy."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ServerBusy(
            f"the request log cannot be used now ({error}); see whether its disk is full, or try again in a second"
        ) from error


def _connect(path: Path) -> sqlite3.Connection:
    """The file is its owner's alone before anything is in it; SQLite makes its journal alike."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=PATIENCE_S, check_same_thread=False)
    try:
        _prepare(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        raise StoreError(
            f"the request log of the data folder cannot be opened: {error}; see whether another process holds "
            f"{path.name}, or its disk is full"
        ) from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreError(
            f"the request log of the data folder cannot be read: {error}; restore {path.name}, or remove it"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """No write-ahead log: it does not work on network file systems, and one transaction takes many records."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = TRUNCATE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the request log of the data folder has schema version {version}, this Lorikeet knows up to "
            f"{len(MIGRATIONS)}; use a newer one, or choose another --data-dir"
        )
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;")
