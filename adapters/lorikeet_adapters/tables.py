"""The rows of the catalogue as values, and values as rows; whoever calls holds the transaction.

`where` is SQL of ours, never a client's text: it says which rows of a table, by their `name`, and of
`generations` by their `generation`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from lorikeet_adapters.stored import (
    HistoryEvent,
    StoredAlias,
    StoredEvent,
    StoredGeneration,
    StoredName,
    Target,
)

Values = tuple[Any, ...]
EVENT = "id, name, event, generation, targets, at, mark"


def generations(
    rows: sqlite3.Connection, where: str = "TRUE", values: Values = ()
) -> dict[str, StoredGeneration]:
    found = rows.execute(
        f"SELECT generation, config, weights, facts, base, findings FROM generations WHERE {where}", values
    )
    return {
        row[0]: StoredGeneration(
            row[0], row[1], row[2], json.loads(row[3]), row[4], tuple(json.loads(row[5]))
        )
        for row in found
    }


def names(rows: sqlite3.Connection, where: str = "TRUE", values: Values = ()) -> list[StoredName]:
    kept: dict[str, list[str]] = {}
    for name, generation in rows.execute(
        f"SELECT name, generation FROM kept WHERE {where} ORDER BY name, place", values
    ):
        kept.setdefault(name, []).append(generation)
    found = rows.execute(f"SELECT name, details, created FROM names WHERE {where} ORDER BY name", values)
    return [
        StoredName(name, tuple(kept[name]), json.loads(details), created) for name, details, created in found
    ]


def aliases(rows: sqlite3.Connection, where: str = "TRUE", values: Values = ()) -> list[StoredAlias]:
    found = rows.execute(
        f"SELECT name, targets, created, updated FROM aliases WHERE {where} ORDER BY name", values
    )
    return [StoredAlias(name, _targets(text), *times) for name, text, *times in found]


def event_of(row: Values) -> StoredEvent:
    """Of a row that was asked for as `EVENT`."""
    id, name, event, generation, text, at, mark = row
    return StoredEvent(id, name, HistoryEvent(event), generation, _targets(text), at, mark)


def put_generations(rows: sqlite3.Connection, stored: Iterable[StoredGeneration]) -> None:
    rows.executemany(
        "INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
        "SET facts = excluded.facts, base = excluded.base, findings = excluded.findings",
        [
            (each.generation, *each.blobs, json.dumps(each.facts), each.base, json.dumps(each.findings))
            for each in stored
        ],
    )


def put(rows: sqlite3.Connection, stored: StoredName | StoredAlias) -> None:
    if isinstance(stored, StoredName):
        _put_name(rows, stored)
    else:
        rows.execute(
            "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?)",
            (stored.name, _text(stored.targets), stored.created, stored.updated),
        )


def remove(rows: sqlite3.Connection, table: str, removed: Iterable[str]) -> None:
    """`table` is `names` or `aliases`; what is not there is as good as removed."""
    rows.executemany(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in removed])


def put_event(rows: sqlite3.Connection, event: StoredEvent) -> None:
    rows.execute(
        f"INSERT INTO history ({EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(event.id, event.name, event.event, event.generation),
            *(_text(event.targets), event.at, event.mark),
        ),
    )


def put_setting(rows: sqlite3.Connection, key: str, value: object) -> None:
    rows.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))


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


def _text(targets: Iterable[Target]) -> str:
    return json.dumps([asdict(each) for each in targets])


def _targets(text: str) -> tuple[Target, ...]:
    found: list[Mapping[str, Any]] = json.loads(text)
    return tuple(Target(**each) for each in found)
