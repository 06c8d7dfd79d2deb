"""The records in their file: written, found, judged and removed. `owner` None is the operator, who has all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

from lorikeet_server.errors import RequestNotFound
from lorikeet_server.request_log.database import Database
from lorikeet_server.request_log.pattern import ESCAPE, glob_of, like_of
from lorikeet_server.request_log.record import Rating, Record, Selection, Share

FILE = "requests.sqlite"
NAMES = tuple(each.name for each in fields(Record))  # a column has its field's name
COLUMNS = ", ".join(NAMES)
FITS = f"{{0}} LIKE :like ESCAPE '{ESCAPE}' AND {{0}} GLOB :glob"
TURN = "json_extract(value, '$.content')"
OCCURS = (
    f"({FITS.format('prompt')} OR {FITS.format('answer')} "
    f"OR EXISTS (SELECT 1 FROM json_each(messages) WHERE {FITS.format(TURN)}))"
)
# So many records are read, and so many looked through, before whoever writes has a turn again.
AT_ONCE, LOOKED_THROUGH = 100, 1000
PAGE_BYTES = 1 << 20  # of texts; they are made JSON of beside everything else


class Records:
    """Every method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._database = Database(folder / FILE)

    def close(self) -> None:
        self._database.close()

    def add(self, records: Sequence[Record], since: float, most_bytes: int) -> None:
        """All of them or none; with them everything goes that is over either bound, the oldest first."""
        with self._database.transaction() as rows:
            rows.executemany(
                f"INSERT INTO requests ({COLUMNS}, bytes) VALUES (:{', :'.join(NAMES)}, :bytes)",
                [{**_values(each), "bytes": each.size} for each in records],
            )
            _trim(rows, since, most_bytes, lambda: self._database.used(rows))

    def retain(self, since: float, most_bytes: int) -> None:
        """Remove what was answered before `since` (seconds since the epoch) and what is over `most_bytes`."""
        with self._database.transaction() as rows:
            _trim(rows, since, most_bytes, lambda: self._database.used(rows))

    def shrink(self) -> None:
        self._database.shrink()

    def page(
        self, owner: str | None, selection: Selection, limit: int, after: str | None = None
    ) -> list[Record]:
        """The newest first, at most `limit`; those behind the one with the id `after`, none where that is gone."""
        return list(self._read(self._page(owner, selection, limit, after), "DESC"))

    def some(
        self, owner: str | None, selection: Selection, limit: int, after: str | None = None
    ) -> tuple[list[Record], bool]:
        """A page of them that ends early once its texts have PAGE_BYTES, and whether there is more behind it."""
        places = self._page(owner, selection, limit + 1, after)
        fits = self._fitting(places[:limit])
        return list(self._read(fits, "DESC")), len(places) > len(fits)

    def _fitting(self, places: Sequence[int]) -> list[int]:
        """The first of them, and those after it for as long as there is room."""
        sizes = self._database.read(
            "SELECT place, bytes + length(CAST(correction AS BLOB)) FROM requests "
            "WHERE place IN (SELECT value FROM json_each(:places)) ORDER BY place DESC",
            {"places": json.dumps(places)},
        )
        room = PAGE_BYTES
        fits: list[int] = []
        for place, size in sizes:
            room -= size
            if fits and room < 0:
                break
            fits.append(place)
        return fits

    def _page(self, owner: str | None, selection: Selection, limit: int, after: str | None) -> list[int]:
        below = None
        if after is not None:
            known = self._database.read(
                "SELECT place FROM requests WHERE id = :id AND (:owner IS NULL OR tenant = :owner)",
                {"id": after, "owner": owner},
            )
            below = known[0][0] if known else 0
        return list(islice(self._places(owner, selection, below), limit))

    def each(self, owner: str | None, selection: Selection) -> Iterator[Record]:
        """Those there are at the first step, the oldest first; one that is removed meanwhile is left out."""
        places = list(self._places(owner, selection))[::-1]
        for start in range(0, len(places), AT_ONCE):
            yield from self._read(places[start : start + AT_ONCE], "ASC")

    def _places(self, owner: str | None, selection: Selection, below: int | None = None) -> Iterator[int]:
        """The newest first, found piece by piece, but for ids, which an index knows."""
        ((first, last),) = self._database.read("SELECT min(place), max(place) FROM requests", {})
        top = (last or 0) if below is None else below - 1
        step = LOOKED_THROUGH if selection.ids is None else top + 1
        where, values = _where(owner, selection)
        while first is not None and top >= first:
            found = self._database.read(
                f"SELECT place FROM requests WHERE place > :floor AND place <= :top AND {where} ORDER BY place DESC",
                {**values, "floor": top - step, "top": top},
            )
            yield from (place for (place,) in found)
            top -= step

    def _read(self, places: Sequence[int], order: str) -> Iterator[Record]:
        found = self._database.read(
            f"SELECT {COLUMNS} FROM requests WHERE place IN (SELECT value FROM json_each(:places)) "
            f"ORDER BY place {order}",
            {"places": json.dumps(places)},
        )
        return map(_made, found)

    def get(self, record: str, owner: str | None) -> Record:
        """Raises RequestNotFound, also for another owner's."""
        found = self.page(owner, Selection(ids=(record,)), 1)
        if not found:
            raise RequestNotFound(record)
        return found[0]

    def judge(self, record: str, owner: str | None, rating: Rating | None, correction: str | None) -> Record:
        """None leaves it as it is; an empty correction is none. Raises RequestNotFound."""
        with self._database.transaction() as rows:
            done = rows.execute(
                "UPDATE requests SET rating = coalesce(:rating, rating), "
                "correction = coalesce(:correction, correction) "
                "WHERE id = :id AND (:owner IS NULL OR tenant = :owner)",
                {"rating": rating, "correction": correction, "id": record, "owner": owner},
            )
            if not done.rowcount:
                raise RequestNotFound(record)
        return self.get(record, owner)

    def delete(self, record: str, owner: str | None) -> None:
        """Raises RequestNotFound."""
        with self._database.transaction() as rows:
            done = rows.execute(
                "DELETE FROM requests WHERE id = :id AND (:owner IS NULL OR tenant = :owner)",
                {"id": record, "owner": owner},
            )
            if not done.rowcount:
                raise RequestNotFound(record)


def _trim(rows: sqlite3.Connection, since: float, most_bytes: int, used: Callable[[], int]) -> None:
    """`used` is read again, as records take more room than their texts."""
    rows.execute("DELETE FROM requests WHERE created < ?", (since,))
    while (over := used() - most_bytes) > 0:
        going = rows.execute("DELETE FROM requests WHERE place <= ?", (_last_of_oldest(rows, over),))
        if not going.rowcount:
            return  # what is left is the empty tables


def _last_of_oldest(rows: sqlite3.Connection, size: int) -> int:
    """The place up to which the oldest have so many bytes together; 0 where there is none."""
    last = 0
    for place, each in rows.execute("SELECT place, bytes FROM requests ORDER BY place"):
        last, size = place, size - each
        if size <= 0:
            break
    return int(last)


def _where(owner: str | None, selection: Selection) -> tuple[str, dict[str, Any]]:
    asked: list[tuple[str, str, object]] = []
    if owner is not None:
        # With ids the index of ids is meant: the plus keeps SQLite from going through all that the tenant has.
        tenant = "tenant = :tenant" if selection.ids is None else "+tenant = :tenant"
        asked.append((tenant, "tenant", owner))
    if selection.ids is not None:
        ids = "id IN (SELECT value FROM json_each(:ids))"
        asked.append((ids, "ids", json.dumps(selection.ids)))
    if selection.model is not None:
        asked.append(("model = :model", "model", selection.model))
    if selection.rating is not None:
        asked.append(("rating = :rating", "rating", selection.rating))
    if selection.text:
        asked.append((OCCURS, "like", like_of(selection.text)))
        asked.append(("1", "glob", glob_of(selection.text)))
    return " AND ".join(["1", *(each[0] for each in asked)]), {name: value for _, name, value in asked}


def _values(record: Record) -> dict[str, Any]:
    made = {name: getattr(record, name) for name in NAMES}
    made["mix"] = json.dumps([asdict(each) for each in record.mix])
    if record.messages is not None:
        made["messages"] = json.dumps(record.messages, ensure_ascii=False)
    return made


def _made(row: tuple[Any, ...]) -> Record:
    known = dict(zip(NAMES, row, strict=True))
    known["mix"] = tuple(Share(**each) for each in json.loads(known["mix"]))
    if known["messages"] is not None:
        known["messages"] = tuple(json.loads(known["messages"]))
    known["rating"] = Rating(known["rating"])
    return Record(**known)
