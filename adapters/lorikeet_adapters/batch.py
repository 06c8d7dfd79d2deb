"""What passes between the owner of a shared registry and its followers, as values that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from lorikeet_adapters.stored import StoredAlias, StoredEvent, StoredGeneration, StoredName


@dataclass(frozen=True, slots=True)
class Position:
    """How far a folder has come: in whose history, the id of the newest event there, and that event's mark.

    The mark tells two histories apart that went on differently after the same id, as a restored copy does.
    """

    owner: str = ""
    sequence: int = 0
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that leads from the event `since` to `position`: no log, but what the names touched mean now.

    `since` 0 is the snapshot: what it does not name does not exist. `generations` are those the names put
    keep. All of it was so at one moment.
    """

    since: int
    position: Position
    names: tuple[StoredName, ...] = ()
    aliases: tuple[StoredAlias, ...] = ()
    names_removed: frozenset[str] = frozenset()
    aliases_removed: frozenset[str] = frozenset()
    generations: tuple[StoredGeneration, ...] = ()
    history: tuple[StoredEvent, ...] = ()

    @property
    def is_snapshot(self) -> bool:
        return self.since == 0


@dataclass(frozen=True, slots=True)
class Appended:
    """The change was committed, as this event."""

    event: StoredEvent


@dataclass(frozen=True, slots=True)
class Behind:
    """Nothing was committed: whoever decided on the change did not know everything before it."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing was committed: the owner lacks these blobs."""

    digests: tuple[str, ...]


Answer: TypeAlias = Appended | Behind | Missing
