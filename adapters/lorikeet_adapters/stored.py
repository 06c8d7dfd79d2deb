"""What the catalogue holds, as values: generations, names, aliases, events, and a change to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorikeet_adapters.access import Access

DAMAGED = "damaged"  # the code of the finding


class HistoryEvent(StrEnum):
    """What can happen to a name. `ACTIVATED` is a step back to a newer generation, after a roll back."""

    REGISTERED = "registered"
    REPLACED = "replaced"
    ACTIVATED = "activated"
    ROLLED_BACK = "rolled_back"
    UPDATED = "updated"
    DELETED = "deleted"
    ALIAS_SET = "alias_set"
    ALIAS_DELETED = "alias_deleted"


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """`facts` is what was learned when the files fitted a base: ranks, bytes, warnings.

    `base` is the fingerprint of the base they were checked against last, `findings` why they do not fit it.
    """

    generation: str
    config: str
    weights: str
    facts: dict[str, Any]
    base: str = ""
    findings: tuple[dict[str, str], ...] = ()

    @property
    def blobs(self) -> tuple[str, str]:
        return (self.config, self.weights)

    @property
    def rows(self) -> int:
        """Rank rows that it takes on the device."""
        return max(map(int, self.facts["ranks"].values()))

    @property
    def is_damaged(self) -> bool:
        """Whether its files were found to be others than those that were checked."""
        return any(each["code"] == DAMAGED for each in self.findings)


@dataclass(frozen=True, slots=True)
class StoredName:
    """`generations` are those still on disk, the newest first; the first is what the name means.

    `details` is what the operator said: source, metadata, pinned, tenants, and `shared_after`. `created`
    in seconds since the epoch.
    """

    name: str
    generations: tuple[str, ...]
    details: dict[str, Any]
    created: float

    @property
    def generation(self) -> str:
        return self.generations[0]

    @property
    def access(self) -> Access:
        return Access.told(self.details)

    @property
    def shared_after(self) -> int:
        """The id of the last event of a time when others could use it: what was then is none of a tenant's business."""
        return int(self.details["shared_after"])


@dataclass(frozen=True, slots=True)
class Target:
    """One share of an alias; without a generation it follows what the name means."""

    name: str
    generation: str | None
    weight: float


@dataclass(frozen=True, slots=True)
class StoredAlias:
    name: str
    targets: tuple[Target, ...]
    created: float
    updated: float


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`generation` is empty and `targets` filled where an alias was set. `at` in seconds since the epoch.

    `mark` is the change's own, drawn by whoever made it; empty for what an earlier version wrote.
    """

    id: int
    name: str
    event: HistoryEvent
    generation: str
    targets: tuple[Target, ...]
    at: float
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction. `event` is what the history says of it under the name that changed."""

    event: HistoryEvent
    put: StoredName | StoredAlias | None = None
    remove: StoredName | StoredAlias | None = None
    generations: Mapping[str, StoredGeneration] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """For the log: which name, and what it has to do with."""
        subject = self.subject
        if isinstance(subject, StoredName):
            return f"{subject.name}, generation {subject.generation[:12]}"
        return f"{subject.name}, targets {', '.join(each.name for each in subject.targets)}"

    @property
    def subject(self) -> StoredName | StoredAlias:
        subject = self.put or self.remove
        assert subject is not None, "a change puts something or removes it"
        return subject

    def as_event(self, id: int, at: float, mark: str) -> StoredEvent:
        """What the history says of it."""
        subject = self.subject
        if isinstance(subject, StoredName):
            return StoredEvent(id, subject.name, self.event, subject.generation, (), at, mark)
        return StoredEvent(id, subject.name, self.event, "", subject.targets, at, mark)


def told(
    known: StoredName | None,
    event: HistoryEvent | None,
    new: Mapping[str, object],
    said: Mapping[str, object],
    newest: int,
) -> dict[str, object]:
    """The details of a name after `event`: what is new with its bytes, and what is said and not None.

    Other bytes do not keep the metadata of those before, but they stay private to whom those were.
    `newest` is the id of the last event there is of any name.
    """
    details: dict[str, object] = {"pinned": False, "metadata": {}, "tenants": None}
    if known is not None:
        details |= known.details
    if event is HistoryEvent.REPLACED:
        details["metadata"] = {}
    access = said.get("access")
    if isinstance(access, Access):
        details["tenants"] = None if access.tenants is None else list(access.tenants)
    if known is None or details["tenants"] != known.details["tenants"]:
        details["shared_after"] = newest
    given = {key: value for key, value in said.items() if value is not None and key != "access"}
    return details | dict(new) | given
