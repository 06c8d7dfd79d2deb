"""The one answer to "what does this name mean now", and who is still using what it meant before."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lorikeet_adapters.errors import AdapterConflict, AdapterNotFound, MixRefused, NameRefused, StoreError
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.names import check_name
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.spec import AdapterSpec, canonical_config, parse_spec
from lorikeet_adapters.store import Store, StoredGeneration, StoredName

log = logging.getLogger("lorikeet")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What checking the weights against the base found."""

    ranks: Mapping[str, int]
    bytes: int
    warnings: tuple[str, ...] = ()


class Checker(Protocol):
    """Reads a weights file against the served base; raises AdapterRefused with every reason.

    Handed in, because it needs tensors and this module is imported where torch must not be.
    """

    def __call__(self, spec: AdapterSpec, weights: Path) -> AdapterFacts: ...


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One registered name. Ranks map modules to ranks; times are seconds since the epoch."""

    name: str
    generation: str
    ranks: Mapping[str, int]
    bytes: int
    source: Mapping[str, str]
    created: float
    leases: int
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return max(self.ranks.values())


@dataclass(frozen=True, slots=True)
class AdapterFilesOnDisk:
    """A generation as the loader needs it."""

    spec: AdapterSpec
    weights: Path


def ignore_retirement(generation: str) -> None:
    """For a registry without an engine behind it."""


class Registry:
    """Names, generations and leases over one store. Every method may be called from any thread.

    `on_retired(generation)` is called once nobody names or leases a generation any more.
    """

    def __init__(self, store: Store, base_name: str, check: Checker) -> None:
        self.base_name = base_name
        self._store = store
        self._check = check
        self.on_retired: Callable[[str], None] = ignore_retirement
        self._writing = threading.Lock()  # one registration or deletion at a time
        self._changed = threading.Condition()  # guards the maps below
        self._names: dict[str, StoredName] = {stored.name: stored for stored in store.names()}
        self._generations: dict[str, StoredGeneration] = store.generations()
        self._leases: Counter[str] = Counter()
        self._awaited: Counter[str] = Counter()  # generations that a `delete` waits for and will free
        self._janitor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry-janitor")

    def is_name(self, name: str) -> bool:
        return name == self.base_name or name in self._names

    def records(self) -> list[AdapterRecord]:
        with self._changed:
            return [self._record(stored) for _, stored in sorted(self._names.items())]

    def record(self, name: str) -> AdapterRecord:
        with self._changed:
            return self._record(self._named(name))

    def register(
        self,
        name: str,
        files: AdapterFiles,
        *,
        replace: bool = False,
        metadata: Mapping[str, object] | None = None,
    ) -> tuple[AdapterRecord, bool]:
        """Check the files and make `name` mean them; returns the record and whether anything changed.

        The same bytes under the same name are a no-op, but for metadata that is given and differs. Raises
        AdapterRefused, AdapterConflict or NameRefused, and then nothing has changed.
        """
        if check_name(name) == self.base_name:
            raise NameRefused(f"`{name}` is the base model's own name")
        spec = parse_spec(files.config)
        with self._writing:
            generation = self._admit(spec, files)
            known = self._names.get(name)
            same = known is not None and known.generation == generation.generation
            if known is not None and same and metadata in (None, known.details["metadata"]):
                return self.record(name), False
            if known is not None and not same and not replace:
                if generation.generation not in self._generations:
                    self._store.discard(generation.config, generation.weights)
                raise AdapterConflict(
                    f"`{name}` is taken by other bytes; send replace, or choose another name"
                )
            details: dict[str, object] = {
                "source": dict(files.origin),
                "metadata": dict(metadata or {}),
                "warnings": list(files.warnings),
            }
            stored = StoredName(name, generation.generation, details, time.time())
            self._commit(generation, stored, "replaced" if known else "registered")
            with self._changed:
                self._names[name] = stored
                self._generations[generation.generation] = generation
                record = self._record(stored)
        log.info("%s %s, generation %s", "replaced" if known else "registered", name, record.generation[:12])
        if known is not None:
            self._retire_if_unused(known.generation)
        return record, True

    def judge(self, files: AdapterFiles) -> AdapterFacts:
        """What `register` would learn of the files, or AdapterRefused with every reason; nothing is kept."""
        spec = parse_spec(files.config)
        with self._store.intake.take(files.weights) as weights:
            weights.seal()
            return self._check(spec, weights.path)

    def delete(self, name: str, timeout: float) -> int | None:
        """Forget `name`, wait up to `timeout` seconds for its leases, free its bytes.

        Returns the bytes freed, 0 while another name means the same bytes, or None when leases outlived
        the wait: then the last release frees them. Raises AdapterNotFound for an unknown name, NameRefused
        for the base's.
        """
        if name == self.base_name and name not in self._names:
            raise NameRefused(f"`{name}` is the base model; it stays as long as the server runs")
        with self._writing:
            with self._changed:
                generation = self._named(name).generation
            self._store.remove(name)
            with self._changed:
                del self._names[name]
        log.info("removed %s, generation %s", name, generation[:12])
        with self._changed:
            self._awaited[generation] += 1
            try:
                quiet = self._changed.wait_for(
                    lambda: self._is_named(generation) or not self._leases[generation], timeout
                )
            finally:
                self._awaited.subtract([generation])
                self._awaited += Counter()  # forget what has come to zero
        return self._retire_if_unused(generation) if quiet else None

    def lease(self, terms: Iterable[Term], count: int = 1) -> Mix:
        """Resolve names into generations and hold them until `count` calls of `release`.

        Raises AdapterNotFound for an unknown name, MixRefused for a mix out of bounds. The base alone
        is the empty mix; inside a mix it is refused, because its weight would mean nothing.
        """
        named = tuple(terms)
        with self._changed:
            if len(named) == 1 and named[0] == Term(self.base_name, 1.0):
                return Mix()
            resolved = [Term(self._generation_of(term.adapter), term.weight) for term in named]
            mix = Mix.of(resolved)
            for generation in mix.adapters:
                self._leases[generation] += count
        return mix

    def release(self, mix: Mix) -> None:
        """End a lease. Called once per leased request, at the request's terminal event; never waits for the disk."""
        with self._changed:
            self._leases.subtract(mix.adapters)
            self._changed.notify_all()
            done = [each for each in mix.adapters if not self._leases[each] and not self._awaited[each]]
            idle = [each for each in done if not self._is_named(each)]
        for generation in idle:
            self._janitor.submit(self._retire_if_unused, generation)

    def close(self) -> None:
        """Finish what the janitor has begun."""
        self._janitor.shutdown(wait=True)

    def locate(self, generation: str) -> AdapterFilesOnDisk:
        """Where the loader finds a generation. Raises AdapterNotFound when it is gone."""
        stored = self._generations.get(generation)
        if stored is None:
            raise AdapterNotFound(generation[:12])
        config = self._store.path(stored.config).read_bytes()
        return AdapterFilesOnDisk(parse_spec(config), self._store.path(stored.weights))

    def _admit(self, spec: AdapterSpec, files: AdapterFiles) -> StoredGeneration:
        """Copy the files in first and check the copy: what was checked is what will be served."""
        config = self._store.put(io.BytesIO(canonical_config(files.config)))
        try:
            weights = self._store.put(files.weights)
        except Exception:
            self._store.discard(config)
            raise
        generation = hashlib.sha256(f"{config}{weights}".encode()).hexdigest()
        if generation in self._generations:
            return self._generations[generation]
        try:
            facts = self._check(spec, self._store.path(weights))
        except Exception:
            self._store.discard(config, weights)
            raise
        learned = {"ranks": dict(facts.ranks), "bytes": facts.bytes, "warnings": list(facts.warnings)}
        return StoredGeneration(generation, config, weights, learned)

    def _commit(self, generation: StoredGeneration, name: StoredName, event: str) -> None:
        try:
            self._store.commit(generation, name, event)
        except Exception:
            if generation.generation not in self._generations:
                self._store.discard(generation.config, generation.weights)
            raise

    def _retire_if_unused(self, generation: str) -> int:
        with self._writing:
            with self._changed:
                in_use = self._is_named(generation) or self._leases[generation]
                if in_use or generation not in self._generations:
                    return 0
                del self._generations[generation]
                del self._leases[generation]
            self.on_retired(generation)
            try:
                return self._store.free(generation)
            except StoreError as error:  # the name is gone or replaced all the same
                log.warning("%s; the next start sweeps it", error)
                return 0

    def _is_named(self, generation: str) -> bool:
        return any(stored.generation == generation for stored in self._names.values())

    def _named(self, name: str) -> StoredName:
        try:
            return self._names[name]
        except KeyError:
            raise AdapterNotFound(name) from None

    def _generation_of(self, name: str) -> str:
        if name == self.base_name:
            raise MixRefused(f"`{name}` is the base model and takes no weight in a mix; leave it out")
        return self._named(name).generation

    def _record(self, stored: StoredName) -> AdapterRecord:
        facts = self._generations[stored.generation].facts
        return AdapterRecord(
            name=stored.name,
            generation=stored.generation,
            ranks=dict(facts["ranks"]),
            bytes=int(facts["bytes"]),
            source=stored.details["source"],
            created=stored.created,
            leases=self._leases[stored.generation],
            warnings=(*facts["warnings"], *stored.details.get("warnings", ())),
            metadata=dict(stored.details["metadata"]),
        )
