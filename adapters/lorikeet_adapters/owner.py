"""The one folder that decides what a shared registry holds, and what its followers may ask of it.

Replicas serve from folders of their own, and change the registry here only, one change after another.
Nothing here needs a model: the owner is a small process beside the replicas.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lorikeet_adapters.batch import Answer, Appended, Batch, Behind, Missing, Position
from lorikeet_adapters.depot import Depot
from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Change

log = logging.getLogger("lorikeet")
HEARD_S = 5.0  # a follower that was not heard of for longer is gone; it asks every 2 s at least
PIECE_BYTES = 4 << 20  # what files are sent in, either way


class Owner(Protocol):
    """Methods block, may be called from any thread, and take and return what can be pickled.

    Any of them raises RegistryAway where the owner cannot be reached: then nobody knows whether the call
    was carried out, and whoever made it asks.
    """

    def since(self, position: Position, wait_s: float, follower: str) -> Batch:
        """What leads from `position` to now, after up to `wait_s` seconds where there is nothing newer.

        It says besides that this follower serves what is so at `position`.
        """

    def append(self, change: Change, mark: str, after: Position) -> Answer:
        """Commit a change that was decided on at `after`, if that is the newest; `mark` is a fresh word of its own."""

    def reached(self, sequence: int, wait_s: float) -> bool:
        """Wait until every follower that was heard of lately serves what was so at `sequence`; did they in time?"""

    def size(self, digest: str) -> int | None:
        """Of a blob, in bytes; None where there is none."""

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """At most `size` bytes of a blob; none at its end, and none where it is gone."""

    def put(self, token: str, offset: int, data: bytes) -> int:
        """Add a piece to the upload `token`; returns how many bytes it has, where the next piece begins.

        Raises BlobTooLarge.
        """

    def seal(self, token: str, digest: str) -> bool:
        """The upload is complete: hold it for a change that names it. False where the bytes are others."""

    def embedded(self) -> dict[str, str]:
        """See `Notes.embedded`."""

    def remember_embedded(self, generations: Mapping[str, str]) -> None:
        """See `Notes.remember_embedded`."""


@dataclass(frozen=True, slots=True)
class _Heard:
    sequence: int
    at: float


class LocalOwner:
    """The owner over a store that nobody else changes. `since` and `reached` hold a thread while they wait.

    Raises StoreError for the folder of a follower.
    """

    def __init__(self, store: Store) -> None:
        if store.catalogue.follows:
            raise StoreError(
                "this data folder is a replica's, a copy of what its owner has; "
                "give the owner its own --data-dir, or an empty one"
            )
        self._store = store
        self._depot = Depot(store)
        self._changed = threading.Condition()  # one change at a time; guards the two below
        self._position = store.catalogue.own()
        self._heard: dict[str, _Heard] = {}

    def since(self, position: Position, wait_s: float, follower: str) -> Batch:
        with self._changed:
            self._hear(follower, position)
            self._changed.wait_for(lambda: self._position != position, wait_s)
        return self._store.catalogue.since(position)

    def append(self, change: Change, mark: str, after: Position) -> Answer:
        generations = change.generations.values()
        with self._changed:
            self._depot.forget_stale()
            if after != self._position:
                return Behind()
            if missing := self._depot.missing(generations):
                return Missing(missing)
            event = self._store.catalogue.commit(change, mark)
            self._position = Position(self._position.owner, event.id, event.mark)
            self._changed.notify_all()
            log.info("%s %s", change.event, change.description)
            self._tidy(change)
        return Appended(event)

    def reached(self, sequence: int, wait_s: float) -> bool:
        def everywhere() -> bool:
            since = time.monotonic() - HEARD_S
            return all(each.sequence >= sequence for each in self._heard.values() if each.at > since)

        with self._changed:
            return self._changed.wait_for(everywhere, wait_s)

    def size(self, digest: str) -> int | None:
        return self._depot.size(digest)

    def read(self, digest: str, offset: int, size: int) -> bytes:
        return self._depot.read(digest, offset, size)

    def put(self, token: str, offset: int, data: bytes) -> int:
        with self._changed:
            self._depot.forget_stale()
        return self._depot.put(token, offset, data)

    def seal(self, token: str, digest: str) -> bool:
        return self._depot.seal(token, digest)

    def embedded(self) -> dict[str, str]:
        return self._store.notes.embedded()

    def remember_embedded(self, generations: Mapping[str, str]) -> None:
        self._store.notes.remember_embedded(generations)

    def close(self) -> None:
        """Forget what was not uploaded to its end; the store is its opener's to close."""
        self._depot.close()

    def _hear(self, follower: str, position: Position) -> None:
        """A position in another history is none in this one."""
        is_ours = position.owner == self._position.owner and position.sequence <= self._position.sequence
        now = time.monotonic()
        self._heard = {key: each for key, each in self._heard.items() if each.at > now - HEARD_S}
        self._heard[follower] = _Heard(position.sequence if is_ours else 0, now)
        self._changed.notify_all()

    def _tidy(self, change: Change) -> None:
        """The change stands whatever becomes of this: what is left is swept at the next start."""
        try:
            self._depot.named(change.generations.values())
            for stored in self._store.catalogue.unkept():
                self._store.free(stored)
        except (OSError, StoreError, sqlite3.Error) as error:
            log.warning("cannot tidy up after a change: %s; the next start will", error)
