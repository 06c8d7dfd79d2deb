"""The SQLite side of the data folder: what every name means, has meant, and which files that needs."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorikeet_adapters import tables
from lorikeet_adapters.batch import Batch, Position
from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.stored import (
    Change,
    HistoryEvent,
    StoredAlias,
    StoredEvent,
    StoredGeneration,
    StoredName,
)
from lorikeet_adapters.tables import EVENT, event_of

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
    # The mark of a change, by which whoever made it finds it in the history of a shared registry.
    "ALTER TABLE history ADD COLUMN mark TEXT NOT NULL DEFAULT '';",
)
OWNER, FOLLOWS = "owner", "follows"  # settings: which owner this folder is, and whose history it follows
TOUCHED = "name IN (SELECT name FROM history WHERE id > ?)"
KEPT_NOWHERE = "SELECT generation FROM generations EXCEPT SELECT generation FROM kept"


class Catalogue:
    """One connection, one transaction at a time. Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._connection = _connect(path)

    def close(self) -> None:
        self._connection.close()

    def commit(self, change: Change, mark: str = "", event: StoredEvent | None = None) -> StoredEvent:
        """All of it or nothing. When this returns, it survives a kill.

        Returns what the history says of it: that is `event`, where another catalogue committed the change first.
        """
        with self.transaction() as rows:
            tables.put_generations(rows, change.generations.values())
            if change.put is not None:
                tables.put(rows, change.put)
            if change.remove is not None:
                table = "names" if isinstance(change.remove, StoredName) else "aliases"
                tables.remove(rows, table, [change.remove.name])
            made = event or change.as_event(_newest(rows) + 1, time.time(), mark or uuid.uuid4().hex)
            tables.put_event(rows, made)
        return made

    def since(self, position: Position) -> Batch:
        """What leads from there to now; the snapshot where `position` is none of this catalogue's owner."""
        with self.transaction() as rows:
            owner = _owner(rows)
            start = position.sequence if position == _position(rows, owner, position.sequence) else 0
            touched = {name for (name,) in rows.execute("SELECT name FROM history WHERE id > ?", (start,))}
            names = tables.names(rows, TOUCHED, (start,))
            aliases = tables.aliases(rows, TOUCHED, (start,))
            needed = f"generation IN (SELECT generation FROM kept WHERE {TOUCHED})"
            generations = tables.generations(rows, needed, (start,))
            events = rows.execute(f"SELECT {EVENT} FROM history WHERE id > ? ORDER BY id", (start,))
            return Batch(
                start,
                _position(rows, owner, _newest(rows)),
                tuple(names),
                tuple(aliases),
                frozenset(touched - {each.name for each in names}),
                frozenset(touched - {each.name for each in aliases}),
                tuple(generations.values()),
                tuple(map(event_of, events)),
            )

    def follow(self, batch: Batch, generations: Iterable[StoredGeneration]) -> None:
        """Come to where the batch leads, and be its owner's from then on; `generations` those not known yet.

        All of it or nothing, and the same twice.
        """
        with self.transaction() as rows:
            tables.put_generations(rows, generations)
            if batch.is_snapshot:
                rows.execute("DELETE FROM names")
                rows.execute("DELETE FROM aliases")
            tables.remove(rows, "names", batch.names_removed)
            tables.remove(rows, "aliases", batch.aliases_removed)
            for name in batch.names:
                tables.put(rows, name)
            for alias in batch.aliases:
                tables.put(rows, alias)
            rows.execute("DELETE FROM history WHERE id > ?", (batch.since,))
            for event in batch.history:
                tables.put_event(rows, event)
            tables.put_setting(rows, FOLLOWS, batch.position.owner)

    def position(self) -> Position:
        """How far this folder has come in the history that it follows; the beginning where it follows none."""
        with self.transaction() as rows:
            owner = _setting(rows, FOLLOWS)
            return _position(rows, owner, _newest(rows)) if owner else Position()

    def own(self) -> Position:
        """How far this folder has come as an owner, which it is from now on."""
        with self.transaction() as rows:
            return _position(rows, _owner(rows), _newest(rows))

    @property
    def follows(self) -> bool:
        """Whether what it holds is another's to decide."""
        return self.position() != Position()

    def amend(self, generations: Iterable[StoredGeneration]) -> None:
        """Write anew what is known about these."""
        with self.transaction() as rows:
            tables.put_generations(rows, generations)

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

    def unkept(self) -> list[StoredGeneration]:
        """Those that no name keeps."""
        with self.transaction() as rows:
            return list(tables.generations(rows, f"generation IN ({KEPT_NOWHERE})").values())

    def generations(self) -> dict[str, StoredGeneration]:
        with self.transaction() as rows:
            return tables.generations(rows)

    def names(self) -> list[StoredName]:
        with self.transaction() as rows:
            return tables.names(rows)

    def aliases(self) -> list[StoredAlias]:
        with self.transaction() as rows:
            return tables.aliases(rows)

    def history(self, name: str, limit: int, before: int | None = None) -> list[StoredEvent]:
        """The newest `limit` events of a name, the newest first; `before` an event's id, those older."""
        found = self.read(
            f"SELECT {EVENT} FROM history WHERE name = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (name, 2**63 - 1 if before is None else before, limit),
        )
        return list(map(event_of, found))

    def newest(self) -> int:
        """The id of the last event of all; 0 when there was none."""
        with self.transaction() as rows:
            return _newest(rows)

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


def _newest(rows: sqlite3.Connection) -> int:
    ((found,),) = rows.execute("SELECT max(id) FROM history")
    return found or 0


def _position(rows: sqlite3.Connection, owner: str, sequence: int) -> Position:
    """That of an event of this history, the beginning where it has none with this id."""
    found = rows.execute("SELECT mark FROM history WHERE id = ?", (sequence,)).fetchone()
    return Position(owner, sequence, found[0]) if found else Position(owner)


def _owner(rows: sqlite3.Connection) -> str:
    """Which owner this folder is: drawn when it is asked for first."""
    if not (known := _setting(rows, OWNER)):
        tables.put_setting(rows, OWNER, known := uuid.uuid4().hex)
    return known


def _setting(rows: sqlite3.Connection, key: str) -> str:
    """Of text; empty where it was never set."""
    found = rows.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return str(json.loads(found[0])) if found else ""


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
