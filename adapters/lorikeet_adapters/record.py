"""What the registry tells about an adapter, and about what a deletion gave back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lorikeet_adapters.access import EVERYONE, Access
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.stored import StoredGeneration, StoredName

MEMORY_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What checking the weights against the base found."""

    ranks: Mapping[str, int]
    bytes: int
    warnings: tuple[str, ...] = ()
    dora: bool = False


class Checker(Protocol):
    """Reads a weights file against the served base; raises AdapterRefused with every reason.

    Handed in, because it needs tensors and the registry is imported where torch must not be.
    """

    def __call__(self, spec: AdapterSpec, weights: Path) -> AdapterFacts: ...


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One registered name. Ranks map modules to ranks; times are seconds since the epoch.

    `generations` can be activated, the newest first; `findings` say why it does not fit the base served.
    `leaving`: a deletion waits for its running requests.
    """

    name: str
    generation: str
    generations: tuple[str, ...]
    ranks: Mapping[str, int]
    bytes: int
    source: Mapping[str, str]
    created: float
    leases: int
    last_used: float | None
    pinned: bool
    leaving: bool
    access: Access = EVERYONE
    warnings: tuple[str, ...] = ()
    findings: tuple[Mapping[str, str], ...] = ()
    provenance: Mapping[str, object] | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return max(self.ranks.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that an adapter had off the disk."""

    device: int = 0
    host: int = 0


@dataclass(frozen=True, slots=True)
class Freed:
    """Bytes that a deletion gave back. The memory is None where whoever holds it has not answered in time."""

    disk: int
    memory: Memory | None


@dataclass(frozen=True, slots=True)
class AdapterFilesOnDisk:
    """A generation as the loader needs it."""

    spec: AdapterSpec
    weights: Path


def no_memory(generation: str) -> Future[Memory]:
    """For a registry without an engine behind it."""
    answer: Future[Memory] = Future()
    answer.set_result(Memory())
    return answer


def no_pins(generation: str, pinned: bool) -> None:
    """For a registry without an engine behind it."""


def make_record(
    stored: StoredName, generation: StoredGeneration, leases: int, last_used: float | None, leaving: bool
) -> AdapterRecord:
    facts: dict[str, Any] = generation.facts
    return AdapterRecord(
        name=stored.name,
        generation=generation.generation,
        generations=stored.generations,
        ranks=dict(facts["ranks"]),
        bytes=int(facts["bytes"]),
        source=stored.details["source"],
        created=stored.created,
        leases=leases,
        last_used=last_used,
        pinned=bool(stored.details["pinned"]),
        leaving=leaving,
        access=stored.access,
        warnings=(*facts["warnings"], *stored.details["warnings"]),
        findings=generation.findings,
        provenance=stored.details["provenance"],
        metadata=dict(stored.details["metadata"]),
    )


def total(memory: Iterable[Future[Memory]]) -> Memory | None:
    """The sum of what came free, or None when an answer does not come in time."""
    futures = list(memory)
    if wait(futures, MEMORY_WAIT_S).not_done:
        return None
    return Memory(sum(each.result().device for each in futures), sum(each.result().host for each in futures))
