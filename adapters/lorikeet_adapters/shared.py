"""The ledger of a replica: changes go to the owner first, and what others changed there comes here.

A change is decided on here and committed there only if nothing else was in between; else the replica
catches up and decides again, by what is so then. So a change means the same as in a registry of one
process, and fails of the same reasons.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from lorikeet_adapters.admission import Admission
from lorikeet_adapters.batch import Appended, Batch, Missing, Position
from lorikeet_adapters.errors import RegistryAway, StoreError
from lorikeet_adapters.owner import Owner
from lorikeet_adapters.store import Incoming, Store
from lorikeet_adapters.stored import Change, StoredGeneration
from lorikeet_adapters.transfer import fetch, push
from lorikeet_adapters.usage import Settled, Usage

log = logging.getLogger("lorikeet")
T = TypeVar("T")
PATIENCE_S = 10.0  # a change waits this long for an owner that is away
AGAIN_S = 0.2  # between two tries to reach it
ATTEMPTS = 50  # each that fails, another replica's change was made: this many in a row are no accident
REACHED_S = 1.0  # a change is acknowledged once all replicas serve it, or after this long


class _Outdated(Exception):
    """Another replica changed the registry first: decide again."""


class SharedLedger:
    """Every method may be called from any thread. `write` holds a thread while the owner is away."""

    def __init__(
        self, owner: Owner, store: Store, usage: Usage, admission: Admission, writing: threading.Lock
    ) -> None:
        if store.catalogue.newest() and not store.catalogue.follows:
            raise StoreError(
                "this data folder has adapters of its own, which a replica would lose; "
                "give each replica an empty --data-dir, and this one to the owner"
            )
        self._owner = owner
        self._store = store
        self._usage = usage
        self._admission = admission
        self._writing = writing
        self._bringing = threading.Lock()  # one batch at a time is fetched; before the writing lock
        self._name = uuid.uuid4().hex  # under which the owner hears of this replica
        self._away_since: float | None = None
        self._current_at = -math.inf

    @property
    def sequence(self) -> int:
        """The id of the newest event that is served here."""
        return self._store.catalogue.newest()

    @property
    def current_at(self) -> float:
        """A reading of `time.monotonic()` when all that the owner had was served here; minus infinity before that."""
        return self._current_at

    def write(self, attempt: Callable[[], T]) -> T:
        for _ in range(ATTEMPTS):
            try:
                with self._writing:
                    before = self.sequence
                    made = attempt()
                    after = self.sequence
            except _Outdated:
                self.catch_up(PATIENCE_S)
            else:
                if after != before:
                    with suppress(RegistryAway):  # the change is made
                        self._owner.reached(after, REACHED_S)
                return made
        raise RegistryAway("other replicas changed the registry faster than this one; try again")

    def apply(self, change: Change) -> Settled:
        """At the owner, then here. Raises RegistryAway when it stays away: the change may then have been made."""
        self._usage.check(change)
        mark, after = uuid.uuid4().hex, self._store.catalogue.position()
        is_sure = True  # that no call without an answer has committed it
        while True:
            try:
                answer = self._owner.append(change, mark, after)
                self._away_since = None
                if isinstance(answer, Appended):
                    return self._usage.apply(change, answer.event)
                if isinstance(answer, Missing):
                    for digest in answer.digests:
                        push(self._owner, digest, self._store.blobs.path(digest))
                elif is_sure:
                    raise _Outdated
                else:
                    return self._find(mark)
            except RegistryAway as error:
                is_sure = False
                self._wait_for_owner(error)

    def step(self, wait_s: float) -> bool:
        """Ask once for what is new, for up to `wait_s` seconds, and serve it whole; True where there was nothing.

        Raises RegistryAway, also for files that arrive as other bytes, and what this folder's disk raises.
        Nothing has changed then.
        """
        position = self._store.catalogue.position()
        batch = self._owner.since(position, wait_s, self._name)
        asked, self._away_since = time.monotonic(), None
        if batch.position != position:
            with self._bringing:
                self._bring(batch, position, asked)
            return False
        self._current_at = asked
        return True

    def catch_up(self, timeout: float) -> None:
        """Serve all that the owner has. Raises RegistryAway where that takes longer than `timeout` seconds."""
        ends = time.monotonic() + timeout
        error = RegistryAway(f"the changes of the shared registry did not arrive within {timeout:g} s")
        while True:
            try:
                if self.step(0):
                    return
            except RegistryAway as away:
                error = away
                time.sleep(AGAIN_S)
            if time.monotonic() > ends:
                raise error

    def _bring(self, batch: Batch, position: Position, asked: float) -> None:
        """Serve a batch that leads on from `position`; nothing where another thread was faster."""
        if self._store.catalogue.position() != position:
            return
        with self._store.incoming() as arriving:
            brought = self._fetch(batch, arriving)
            with self._writing:
                is_next = self._store.catalogue.position() == position
                if is_next and self._take(batch, brought) is not None:
                    self._current_at = asked

    def _find(self, mark: str) -> Settled:
        """After a call that had no answer: what others did since, and perhaps this. Needs the writing lock.

        Raises _Outdated when the change is not there, which by now it cannot come to be any more.
        """
        batch = self._owner.since(self._store.catalogue.position(), 0, self._name)
        with self._store.incoming() as arriving:
            settled = self._take(batch, self._fetch(batch, arriving))
        if settled is None or mark not in {each.mark for each in batch.history}:
            raise _Outdated
        return settled

    def _fetch(self, batch: Batch, arriving: Incoming) -> Mapping[str, StoredGeneration]:
        """The generations that are not known here, with their files, judged against this base.

        Their files are fetched also where some are here already: what another generation needs of them
        today it may let go before these are named.
        """
        known = self._usage.directory.generations
        new = [each for each in batch.generations if each.generation not in known]
        for digest in sorted({digest for each in new for digest in each.blobs}):
            fetch(self._owner, digest, self._store, arriving)
        return {each.generation: self._admission.arrived(each) for each in new}

    def _take(self, batch: Batch, brought: Mapping[str, StoredGeneration]) -> Settled | None:
        """See `Usage.follow`. Needs the writing lock."""
        before = self._usage.directory.names
        settled = self._usage.follow(batch, brought)
        lost = sorted(before.keys() - {each.name for each in batch.names}) if batch.is_snapshot else []
        if lost and settled is not None:
            log.warning(
                "the shared registry has another history than the copy here, which follows it now; "
                "%d adapters are no more: %s",
                *(len(lost), ", ".join(lost[:10])),
            )
        return settled

    def _wait_for_owner(self, error: RegistryAway) -> None:
        """A moment; raises RegistryAway once the owner has been away for too long."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > PATIENCE_S:
            raise RegistryAway(
                "the owner of the shared registry does not answer: it cannot be changed now, and whether this "
                "change was made will show when it is back; what is registered is served"
            ) from error
        time.sleep(AGAIN_S)
