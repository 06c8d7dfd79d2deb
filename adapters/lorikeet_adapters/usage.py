"""Who uses what: leases on generations, and what becomes of those that nobody needs any more."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lorikeet_adapters.alias import sticky
from lorikeet_adapters.batch import Batch
from lorikeet_adapters.directory import Directory
from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.pins import check_rows
from lorikeet_adapters.record import AdapterRecord, Memory, make_record, no_memory, no_pins
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Change, StoredEvent, StoredGeneration

log = logging.getLogger("lorikeet")
SAVE_USES_S = 60.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What came free: bytes on disk, and the answers that will say how much memory."""

    disk: int
    memory: tuple[Future[Memory], ...]


class Usage:
    """The directory of the moment and the leases on what it means. Every method may be called from any thread.

    `on_retired(generation)` is called once no new request can mean a generation and no running one uses
    it; `on_pinned(generation, pinned)` when it must stay on the device, and when it need not any longer.
    """

    def __init__(self, store: Store, directory: Directory, writing: threading.Lock) -> None:
        self.on_retired: Callable[[str], Future[Memory]] = no_memory
        self.on_pinned: Callable[[str, bool], None] = no_pins
        self.directory = directory
        self._store = store
        self._writing = writing  # held by whoever replaces the directory or settles
        self._changed = threading.Condition()  # guards the directory and the maps below
        self._leases: Counter[str] = Counter()
        self._near = directory.reachable  # what the engine may hold
        self.rows: float = math.inf  # rank rows that the pinned may take together
        self._pins: frozenset[str] = frozenset()  # what the engine was told
        self._uses = store.notes.uses()
        self._saved = (time.monotonic(), dict(self._uses))
        self._janitor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry-janitor")

    def attach(
        self, on_retired: Callable[[str], Future[Memory]], on_pinned: Callable[[str, bool], None], rows: float
    ) -> None:
        """Needs the writing lock."""
        self.on_retired, self.on_pinned, self.rows, self._pins = on_retired, on_pinned, rows, frozenset()
        self.settle()
        if left_out := self.directory.pinned - self._pins:
            log.warning(
                "the pinned adapters need %d rank rows, there are %d: %d of them do not stay on the device; "
                "start with more --rank-rows, or unpin some",
                self.directory.pinned_rows,
                rows,
                len(left_out),
            )

    def lease(
        self,
        terms: Iterable[Term],
        count: int = 1,
        user: str | None = None,
        tenant: str | None = None,
        *,
        chat: bool = False,
    ) -> Mix:
        """Resolve names into generations and hold them until `count` calls of `release`.

        Raises AdapterNotFound for a name that is unknown or private to others than this tenant, AdapterIncompatible for one that does not fit the base, ChatRefused for one that no `chat` is to reach,
        MixRefused for a mix out of bounds, DoraRefused for one that cannot be applied. The base alone is the empty mix; inside a mix it is refused,
        because its weight would mean nothing.
        """
        named = tuple(terms)
        point = sticky(user)
        with self._changed:
            directory = self.directory
            if len(named) == 1 and named[0] == Term(directory.base_name, 1.0):
                return Mix()
            resolved = [
                Term(directory.meaning(term.adapter, point, tenant, chat=chat), term.weight) for term in named
            ]
            mix = Mix.of(resolved)
            directory.check_blend(
                mix, {each.adapter: term.adapter for each, term in zip(resolved, named, strict=True)}
            )
            now = time.time()
            for generation in mix.adapters:
                self._leases[generation] += count
                self._uses[generation] = now
        return mix

    def release(self, mix: Mix) -> None:
        """End a lease. Called once per leased request, at the request's terminal event; never waits for the disk."""
        with self._changed:
            self._leases.subtract(mix.adapters)
            self._changed.notify_all()
            reachable = self.directory.reachable
            unused = any(not self._leases[each] and each not in reachable for each in mix.adapters)
        if unused:
            self._janitor.submit(self._tidy)
        if mix.adapters and time.monotonic() - self._saved[0] > SAVE_USES_S:
            self._janitor.submit(self.save_uses)

    def records(self, names: Iterable[str] | None = None) -> list[AdapterRecord]:
        """Of these names, else of all. Raises AdapterNotFound."""
        with self._changed:
            directory = self.directory
            made = []
            for stored in map(directory.named, sorted(directory.names) if names is None else names):
                key = stored.generation
                leases, used = self._leases[key], self._uses.get(key)
                generation, leaving = directory.generations[key], stored.name in directory.leaving
                made.append(make_record(stored, generation, leases, used, leaving))
        return made

    def become(self, directory: Directory) -> None:
        """From now on names mean this. Needs the writing lock."""
        with self._changed:
            self.directory = directory
            self._changed.notify_all()

    def check(self, change: Change) -> Directory:
        """What names will mean after it. Raises PinRefused. Needs the writing lock."""
        after = self.directory.after(change)
        check_rows(after, self.directory, self.rows)
        return after

    def apply(self, change: Change, event: StoredEvent | None = None) -> Settled:
        """On disk first, then in memory, then what follows from it. Needs the writing lock.

        `event` is the owner's where the registry is shared: it has committed the change already.
        """
        after = self.check(change)
        self._store.catalogue.commit(change, event=event)
        self.become(after)
        log.info("%s %s", change.event, change.description)
        return self.settle()

    def follow(self, batch: Batch, brought: Mapping[str, StoredGeneration]) -> Settled | None:
        """The same for what others changed; None where a generation is not here, and then nothing was done.

        `brought` are the generations of the batch that were not known, with their files. Needs the writing
        lock, and that the batch leads on from where this folder is.
        """
        directory = self.directory
        if any(each.generation not in brought | directory.generations.keys() for each in batch.generations):
            return None  # what was known when the files were fetched is freed by now
        after = directory.following(batch, brought)
        self._store.catalogue.follow(batch, brought.values())
        self.become(after)
        return self.settle()

    def judge(self, stored: StoredGeneration) -> bool:
        """From now on this is known of a generation, on disk first; False when it is gone. Not under the writing lock."""
        with self._writing:
            if stored.generation not in self.directory.generations:
                return False
            self._store.catalogue.amend([stored])
            self.become(self.directory.judging(stored))
            self.settle()
        return True

    def wait_for(self, name: str, timeout: float) -> int:
        """Wait until no request uses what only this leaving name means; returns how many still do."""

        def running() -> int:
            if (stored := self.directory.names.get(name)) is None:
                return 0  # another replica has deleted it meanwhile
            return sum(
                self._leases[each] for each in stored.generations if each not in self.directory.reachable
            )

        with self._changed:
            self._changed.wait_for(lambda: not running(), timeout)
            return running()

    def settle(self) -> Settled:
        """Retire what nothing can reach, delete what no name keeps. Needs the writing lock."""
        with self._changed:
            directory = self.directory
            self._leases = +self._leases
            leased = frozenset(self._leases)
            # What a deletion waits for is retired by that deletion, which says how much came free.
            waiting = {each for name in directory.leaving for each in directory.names[name].generations}
            held = directory.reachable | leased | (waiting & self._near)
            idle, self._near = self._near - held, held
            gone = frozenset(directory.generations.keys() - directory.kept - leased)
            dropped = [directory.generations[each] for each in sorted(gone)]
            self.directory = directory.without(gone)
            for each in gone:
                self._uses.pop(each, None)
        self._move_pins(self._fitting(directory))
        memory = tuple(self.on_retired(each) for each in sorted(idle))
        disk = 0
        for stored in dropped:
            try:
                disk += self._store.free(stored)
            except StoreError as error:  # the name is gone or replaced all the same
                log.warning("%s; the next start sweeps it", error)
        return Settled(disk, memory)

    def save_uses(self) -> None:
        """Write down when each generation was last used; a failure costs only that."""
        with self._changed:
            uses, (_, saved) = dict(self._uses), self._saved
            self._saved = (time.monotonic(), uses)
        try:
            self._store.notes.remember_uses({key: at for key, at in uses.items() if saved.get(key) != at})
        except sqlite3.Error as error:
            log.warning("cannot write down when adapters were last used: %s", error)

    def close(self) -> None:
        """Finish what the janitor has begun."""
        self._janitor.shutdown(wait=True)
        self.save_uses()

    def _fitting(self, directory: Directory) -> frozenset[str]:
        """The pinned that have room together, those that are pinned already first.

        A change cannot pin more than fits, but a start with fewer rows can find more: pinned to the last
        row and beyond, the device would have none left for any request.
        """
        fitting, left = set(), self.rows
        for each in sorted(directory.pinned, key=lambda each: (each not in self._pins, each)):
            if (rows := directory.rows_of(each)) <= left:
                fitting.add(each)
                left -= rows
        return frozenset(fitting)

    def _move_pins(self, pinned: frozenset[str]) -> None:
        for each in sorted(self._pins - pinned):
            self.on_pinned(each, False)
        for each in sorted(pinned - self._pins):
            self.on_pinned(each, True)
        self._pins = pinned

    def _tidy(self) -> None:
        """On the janitor's thread, where nobody would see an exception."""
        try:
            with self._writing:
                self.settle()
        except Exception:
            log.exception("tidying up after the last request of an adapter failed; the next start sweeps it")
