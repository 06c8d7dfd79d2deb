"""The SQLite side of the data folder: what every name means, has meant, and which files that needs."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.stored import (
    Change,
    HistoryEvent,
    StoredAlias,
    StoredEvent,
    StoredGeneration,
    StoredName,
    Target,
)

# `kept` has a name's generations, place 0 being what it means; a foreign key holds them to be there.
MIGRATIONS = (
    """
    CREATE TABLE generations (
        generation TEXT PRIMARY KEY, config TEXT NOT NULL, weights TEXT NOT NULL,
        facts TEXT NOT NULL, base TEXT NOT NULL, findings TEXT NOT NULL
    ) STRICT;
    CREATE TABLE names (name TEXT PRIMARY KEY, details TEXT NOT NULL, created REAL NOT NULL) STRICT;
    CREATE TABLE kept (
        name TEXT NOT NULL REFERENCES names ON DELETE CASCADE, place INTEGER NOT NULL,
        generation TEXT NOT NULL REFERENCES generations, PRIMARY KEY (name, place)
    ) STRICT;
    CREATE INDEX kept_generations ON kept (generation);
    CREATE TABLE aliases (
        name TEXT PRIMARY KEY, targets TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL
    ) STRICT;
    CREATE TABLE history (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, event TEXT NOT NULL,
        generation TEXT NOT NULL, targets TEXT NOT NULL, at REAL NOT NULL
    ) STRICT;
    CREATE INDEX history_names ON history (name, id);
    CREATE TABLE used (generation TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
    CREATE TABLE answers (
        key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL
    ) STRICT;
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    """,
    # Adapters private to tenants, which a Lorikeet that does not know of them must not open; and answers
    # that belong to whoever got them.
    """
    UPDATE names SET details = json_set(details, '$.tenants', json('null'));
    ALTER TABLE answers RENAME TO answers_of_all;
    CREATE TABLE answers (
        owner TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (owner, key)
    ) STRICT;
    INSERT INTO answers SELECT '', key, request, answer, at FROM answers_of_all;
    DROP TABLE answers_of_all;
    """,
    # Since when a name is for those who may use it now. Of what was before nobody wrote that down, so it
    # is the operator's alone.
    """
    UPDATE names SET details = json_set(
        details, '$.shared_after', (SELECT coalesce(max(id), 0) FROM history)
    );
    """,
)
KEPT_NOWHERE = "SELECT generation FROM generations EXCEPT SELECT generation FROM kept"


class Catalogue:
    """One connection, one transaction at a time. Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._connection = _connect(path)

    def close(self) -> None:
        self._connection.close()

    def commit(self, change: Change) -> None:
        """All of it or nothing. When this returns, it survives a kill."""
        with self.transaction() as rows:
            _put_generations(rows, change.generations.values())
            if isinstance(change.put, StoredName):
                _put_name(rows, change.put)
            elif change.put is not None:
                _put_alias(rows, change.put)
            if change.remove is not None:
                table = "names" if isinstance(change.remove, StoredName) else "aliases"
                rows.execute(f"DELETE FROM {table} WHERE name = ?", (change.remove.name,))
            _record(rows, change)

    def amend(self, generations: Iterable[StoredGeneration]) -> None:
        """Write anew what is known about these."""
        with self.transaction() as rows:
            _put_generations(rows, generations)

    def forget(self, generation: str) -> None:
        """Drop a generation unless a name keeps it."""
        with self.transaction() as rows:
            rows.execute(
                f"DELETE FROM generations WHERE generation = ? AND generation IN ({KEPT_NOWHERE})",
                (generation,),
            )

    def sweep(self) -> None:
        """Drop every generation that no name keeps: those that a kill left with running requests."""
        with self.transaction() as rows:
            rows.execute(f"DELETE FROM generations WHERE generation IN ({KEPT_NOWHERE})")
            rows.execute("DELETE FROM used WHERE generation NOT IN (SELECT generation FROM generations)")

    def blobs(self) -> frozenset[str]:
        """Every digest that a generation needs."""
        found = self.read("SELECT config, weights FROM generations")
        return frozenset(digest for row in found for digest in row)

    def generations(self) -> dict[str, StoredGeneration]:
        found = self.read("SELECT generation, config, weights, facts, base, findings FROM generations")
        return {
            row[0]: StoredGeneration(
                row[0], row[1], row[2], json.loads(row[3]), row[4], tuple(json.loads(row[5]))
            )
            for row in found
        }

    def names(self) -> list[StoredName]:
        kept: dict[str, list[str]] = {}
        for name, generation in self.read("SELECT name, generation FROM kept ORDER BY name, place"):
            kept.setdefault(name, []).append(generation)
        found = self.read("SELECT name, details, created FROM names ORDER BY name")
        return [
            StoredName(name, tuple(kept[name]), json.loads(details), created)
            for name, details, created in found
        ]

    def aliases(self) -> list[StoredAlias]:
        found = self.read("SELECT name, targets, created, updated FROM aliases ORDER BY name")
        return [StoredAlias(name, _targets(text), *times) for name, text, *times in found]

    def history(self, name: str, limit: int, before: int | None = None) -> list[StoredEvent]:
        """The newest `limit` events of a name, the newest first; `before` an event's id, those older."""
        found = self.read(
            "SELECT id, name, event, generation, targets, at FROM history "
            "WHERE name = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (name, 2**63 - 1 if before is None else before, limit),
        )
        return [
            StoredEvent(id, name, HistoryEvent(event), generation, _targets(text), at)
            for id, name, event, generation, text, at in found
        ]

    def newest(self) -> int:
        """The id of the last event of all; 0 when there was none."""
        ((found,),) = self.read("SELECT max(id) FROM history")
        return found or 0

    def last(self, name: str, events: Iterable[HistoryEvent]) -> int:
        """The id of the last of these events of a name; 0 when there was none."""
        found = self.read(
            "SELECT max(id) FROM history WHERE name = ? AND event IN (SELECT value FROM json_each(?))",
            (name, json.dumps(list(events))),
        )
        return found[0][0] or 0

    def registered_at(self, name: str, generation: str) -> int:
        """The id of the last event that brought these bytes under this name; 0 when there is none."""
        ((found,),) = self.read(
            "SELECT max(id) FROM history WHERE name = ? AND generation = ? AND event IN (?, ?)",
            (name, generation, HistoryEvent.REGISTERED, HistoryEvent.REPLACED),
        )
        return found or 0

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._guard:
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard, self._connection:
            yield self._connection


def _put_generations(rows: sqlite3.Connection, generations: Iterable[StoredGeneration]) -> None:
    rows.executemany(
        "INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
        "SET facts = excluded.facts, base = excluded.base, findings = excluded.findings",
        [
            (each.generation, *each.blobs, json.dumps(each.facts), each.base, json.dumps(each.findings))
            for each in generations
        ],
    )


def _put_name(rows: sqlite3.Connection, stored: StoredName) -> None:
    rows.execute(
        "INSERT INTO names VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
        "SET details = excluded.details, created = excluded.created",
        (stored.name, json.dumps(stored.details), stored.created),
    )
    rows.execute("DELETE FROM kept WHERE name = ?", (stored.name,))
    rows.executemany(
        "INSERT INTO kept VALUES (?, ?, ?)",
        [(stored.name, place, generation) for place, generation in enumerate(stored.generations)],
    )


def _put_alias(rows: sqlite3.Connection, stored: StoredAlias) -> None:
    rows.execute(
        "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?)",
        (stored.name, _text(stored.targets), stored.created, stored.updated),
    )


def _record(rows: sqlite3.Connection, change: Change) -> None:
    subject = change.subject
    generation = subject.generation if isinstance(subject, StoredName) else ""
    targets = () if isinstance(subject, StoredName) else subject.targets
    rows.execute(
        "INSERT INTO history (name, event, generation, targets, at) VALUES (?, ?, ?, ?, ?)",
        (subject.name, change.event, generation, _text(targets), time.time()),
    )


def _text(targets: Iterable[Target]) -> str:
    return json.dumps([asdict(each) for each in targets])


def _targets(text: str) -> tuple[Target, ...]:
    found: list[Mapping[str, Any]] = json.loads(text)
    return tuple(Target(**each) for each in found)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        _prepare(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreError(
            f"the catalogue cannot be read: {error}; restore it, or choose another --data-dir"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """No write-ahead log: it does not work on network file systems, and writes are rare here."""
    connection.execute("PRAGMA journal_mode = TRUNCATE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the catalogue has schema version {version}, this Lorikeet knows up to {len(MIGRATIONS)}; "
            "use a newer one, or choose another --data-dir"
        )
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;")
