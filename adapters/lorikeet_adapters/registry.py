"""The one answer to "what does this name mean now", and everything that changes it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

from lorikeet_adapters.access import Access
from lorikeet_adapters.admission import Admission
from lorikeet_adapters.alias import check_shares
from lorikeet_adapters.directory import Directory
from lorikeet_adapters.errors import AdapterIncompatible, AdapterInUse, AdapterNotFound
from lorikeet_adapters.follower import Follower
from lorikeet_adapters.ledger import Ledger, LocalLedger, written
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.names import check_name
from lorikeet_adapters.notes import KEEP_GENERATIONS
from lorikeet_adapters.owner import Owner
from lorikeet_adapters.pins import check_pin
from lorikeet_adapters.record import (
    AdapterFacts,
    AdapterFilesOnDisk,
    AdapterRecord,
    Checker,
    Freed,
    Memory,
    total,
)
from lorikeet_adapters.shared import SharedLedger
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.spec import read_spec
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import (
    Change,
    HistoryEvent,
    StoredAlias,
    StoredEvent,
    StoredGeneration,
    StoredName,
    Target,
    told,
)
from lorikeet_adapters.usage import Settled, Usage
from lorikeet_adapters.verifier import Verifier

log = logging.getLogger("lorikeet")


class Registry:
    """Names, generations, aliases and leases over one store. Every method may be called from any thread.

    `fingerprint` is the served base's `Origin.key`: adapters checked against another are checked again,
    and those that do not fit are refused by name. `keep` is how many generations of a name stay on disk.
    With an `owner` the registry is a replica of a shared one, and `store` its own copy: changes are made at
    the owner, and raise RegistryAway where it does not answer. Raises StoreError for a folder that is the
    wrong one for that.
    `expected`, wherever it is taken, makes the change a compare-and-swap: AdapterChanged unless the name
    means this generation, or for `*` anything. A change that raises has changed nothing.
    """

    def __init__(
        self,
        store: Store,
        base_name: str,
        check: Checker,
        *,
        fingerprint: str = "",
        keep: int = KEEP_GENERATIONS,
        owner: Owner | None = None,
    ) -> None:
        self.base_name = base_name
        self.store = store
        self._keep = keep
        self._admission = Admission(store, check, fingerprint)
        self._admitting = threading.Lock()  # one adapter is copied in and checked at a time
        self._writing = threading.Lock()  # one change of the directory at a time
        self._usage = Usage(store, self._admission.read(base_name), self._writing)
        self.ledger: Ledger  # where changes are committed
        self.follower: Follower | None = None  # the server starts it
        if owner is None:
            self.ledger = LocalLedger(store, self._usage, self._writing)
        else:
            self.ledger = shared = SharedLedger(owner, store, self._usage, self._admission, self._writing)
            self.follower = Follower(shared)
        self.verifier = Verifier(self._usage, self._admission, store.blobs, self._admitting)

    def attach(
        self, on_retired: Callable[[str], Future[Memory]], on_pinned: Callable[[str, bool], None], rows: int
    ) -> None:
        """Whom to tell what leaves the device and what must stay on it; told at once what is pinned now.

        `rows` is how many rank rows the pinned may take together. Where a start finds more pinned, some
        stay off the device, with a warning.
        """
        with self._writing:
            self._usage.attach(on_retired, on_pinned, rows)

    def is_name(self, name: str) -> bool:
        return name in self._usage.directory

    @property
    def directory(self) -> Directory:
        """What every name means at this moment."""
        return self._usage.directory

    def records(self) -> list[AdapterRecord]:
        return self._usage.records()

    def record(self, name: str) -> AdapterRecord:
        return self._usage.records([name])[0]

    def aliases(self) -> list[StoredAlias]:
        return [alias for _, alias in sorted(self._usage.directory.aliases.items())]

    def alias(self, name: str) -> StoredAlias:
        try:
            return self._usage.directory.aliases[name]
        except KeyError:
            raise AdapterNotFound(name) from None

    def history(self, name: str, limit: int = 100, before: int | None = None) -> list[StoredEvent]:
        """Events of a name, newest first, also of one that is gone; `before` an event's id, those older.

        Raises AdapterNotFound for a name nothing ever happened to.
        """
        found = self.store.catalogue.history(name, limit, before)
        if not found and before is None:
            raise AdapterNotFound(name)
        return found

    def lease(
        self,
        terms: Iterable[Term],
        count: int = 1,
        user: str | None = None,
        tenant: str | None = None,
        *,
        chat: bool = False,
    ) -> Mix:
        """Names into generations, held until `count` calls of `release`; see `Usage.lease`."""
        return self._usage.lease(terms, count, user, tenant, chat=chat)

    def release(self, mix: Mix) -> None:
        """End a lease, at the request's terminal event; never waits for the disk."""
        self._usage.release(mix)

    def locate(self, generation: str) -> AdapterFilesOnDisk:
        """Where the loader finds a generation. Raises AdapterNotFound when it is gone."""
        if stored := self._usage.directory.generations.get(generation):
            return self._admission.files(stored)
        raise AdapterNotFound(generation[:12])

    def register(
        self,
        name: str,
        files: AdapterFiles,
        *,
        replace: bool = False,
        expected: str | None = None,
        metadata: Mapping[str, object] | None = None,
        pinned: bool | None = None,
        access: Access | None = None,
        provenance: Mapping[str, object] | None = None,
        by: str | None = None,
    ) -> tuple[AdapterRecord, bool]:
        """Check the files and make `name` mean them; returns the record and whether anything changed.

        The same bytes under the same name are a no-op, but for metadata or a pin that is given and differs.
        Other bytes need `replace` or `expected`. Raises AdapterRefused, BlobTooLarge, AdapterConflict,
        AdapterChanged, AdapterInUse, AccessRefused or NameRefused.
        """
        self._usage.directory.check_free(check_name(name), "adapter", by)
        spec, refused = read_spec(files.config)
        if refused:
            self.judge(files)  # raises, with what is wrong with the weights besides
        said = {"metadata": metadata, "pinned": pinned, "access": access}
        with self._admitting, self.store.incoming() as arriving:
            known = self._usage.directory.generations
            generation = self._admission.admit(spec, files, arriving, known)
            new: dict[str, object] = {"source": dict(files.origin), "provenance": provenance}
            new["warnings"] = list(files.warnings)

            def attempt() -> tuple[AdapterRecord, bool]:
                event = self._usage.directory.claim(name, generation.generation, replace, expected, by)
                changed = self._point(name, generation, event, new if event else {}, said, by=by)
                return self.record(name), changed

            return self.ledger.write(attempt)

    def judge(self, files: AdapterFiles) -> AdapterFacts:
        """What `register` would learn of the files, or AdapterRefused with every reason; nothing is kept."""
        return self._admission.judge(files)

    @written
    def activate(
        self, name: str, generation: str, expected: str | None = None, by: str | None = None
    ) -> tuple[AdapterRecord, bool]:
        """Make `name` mean one of its former generations again; returns the record and whether that changed anything.

        Raises GenerationNotFound, AdapterIncompatible, AdapterChanged, AccessRefused or AdapterInUse.
        """
        stored = self._usage.directory.changeable(name, expected, by)
        known = self._usage.directory.having(name, generation)
        found = self._usage.directory.generations[generation]
        if found.findings:
            raise AdapterIncompatible(
                f"generation {generation[:12]} of `{name}` cannot be served: {found.findings[0]['message']}"
            )
        since = self.store.catalogue.registered_at
        older = since(name, generation) < since(name, known.generation)
        event = HistoryEvent.ROLLED_BACK if older else HistoryEvent.ACTIVATED
        changed = generation != stored.generation
        if changed:
            self._point(name, found, event, {}, {}, by=by)
        return self.record(name), changed

    @written
    def update(
        self,
        name: str,
        *,
        pinned: bool | None = None,
        metadata: Mapping[str, object] | None = None,
        access: Access | None = None,
        expected: str | None = None,
        by: str | None = None,
    ) -> AdapterRecord:
        """Change what is said about an adapter, not its bytes."""
        stored = self._usage.directory.changeable(name, expected, by)
        said = {"metadata": metadata, "pinned": pinned, "access": access}
        self._point(name, self._usage.directory.generations[stored.generation], None, {}, said, by=by)
        return self.record(name)

    def delete(self, name: str, timeout: float, expected: str | None = None, by: str | None = None) -> Freed:
        """Wait up to `timeout` seconds for running requests, then forget `name` and free its bytes.

        New requests do not find the name meanwhile. Bytes that another name needs stay. Raises
        AdapterNotFound, AdapterChanged, and AdapterInUse when an alias sends requests here or requests
        outlast the wait: then the name is as it was.
        """
        with self._writing:
            self._usage.directory.deletable(name, expected, by)
            self._usage.become(self._usage.directory.leave(name))
        try:
            if running := self._usage.wait_for(name, timeout):
                raise AdapterInUse(
                    f"{running} requests still use `{name}` after {timeout:g} s; "
                    "nothing was deleted, try again later"
                )
            settled = self._forget(name, expected, by)
        except BaseException:
            with self._writing:
                self._usage.become(self._usage.directory.stay(name))
                self._usage.settle()  # a pin that was given up meanwhile counts again
            raise
        return Freed(settled.disk, total(settled.memory))

    @written
    def put_alias(
        self, name: str, targets: Sequence[Target], by: str | None = None
    ) -> tuple[StoredAlias, bool]:
        """Make `name` send requests to these adapters; returns the alias and whether it is new.

        Raises AliasRefused, NameRefused, NameTaken, AdapterNotFound, GenerationNotFound or AdapterInUse.
        """
        checked = check_shares(targets)
        directory = self._usage.directory
        directory.check_alias(check_name(name), by)
        directory.check_targets(checked, by)
        for target in checked:
            self._usage.directory.changeable(target.name, None)
        known, now = directory.aliases.get(name), time.time()
        if known is not None and known.targets == checked:
            return known, False
        made = StoredAlias(name, checked, known.created if known else now, now)
        self.ledger.apply(Change(HistoryEvent.ALIAS_SET, put=made))
        return made, known is None

    @written
    def delete_alias(self, name: str, by: str | None = None) -> None:
        """Raises AdapterNotFound or AccessRefused."""
        alias = self.alias(name)
        self._usage.directory.check_own(name, by)
        self.ledger.apply(Change(HistoryEvent.ALIAS_DELETED, remove=alias))

    def close(self) -> None:
        """Finish what the last requests have left to do."""
        self.verifier.close()
        if self.follower is not None:
            self.follower.close()
        self._usage.close()

    @written
    def _forget(self, name: str, expected: str | None, by: str | None) -> Settled:
        """Also what was decided before the wait is decided again: another replica may have changed it."""
        stored = self._usage.directory.stay(name).deletable(name, expected, by)
        return self.ledger.apply(Change(HistoryEvent.DELETED, remove=stored))

    def _point(
        self,
        name: str,
        generation: StoredGeneration,
        event: HistoryEvent | None,
        new: Mapping[str, object],
        said: Mapping[str, object],
        *,
        by: str | None,
    ) -> bool:
        """Make a name mean a generation and say of it what is given and not None; False when nothing differs."""
        directory = self._usage.directory
        check_pin(directory, name, said.get("pinned"), by, generation)
        details = told(known := directory.names.get(name), event, new, said, self.store.catalogue.newest())
        healed = directory.generations.get(generation.generation) != generation
        if event is None and known is not None and details == known.details and not healed:
            return False
        kept = directory.keeping(name, generation.generation, self._keep)
        stored = StoredName(name, kept, details, known.created if known else time.time())
        self.ledger.apply(
            Change(event or HistoryEvent.UPDATED, stored, None, {generation.generation: generation})
        )
        return True
