"""Which requests have run out of time. The clock is the caller's."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lorikeet_server.engine.entry import WAITING, Entry
from lorikeet_server.engine.failures import QUEUED_TOO_LONG, TOOK_TOO_LONG
from lorikeet_server.engine.request import Failure


def expired(entries: Iterable[Entry], now: float) -> tuple[tuple[str, Failure], ...]:
    """Requests whose deadline has passed, and which of the two it was."""
    late = []
    for entry in entries:
        if entry.request.end_by <= now:
            late.append((entry.request.id, TOOK_TOO_LONG))
        elif _start_by(entry) <= now:
            late.append((entry.request.id, QUEUED_TOO_LONG))
    return tuple(late)


def next_deadline(entries: Iterable[Entry]) -> float:
    """The first moment at which one of them expires; infinity when none does."""
    return min((min(each.request.end_by, _start_by(each)) for each in entries), default=math.inf)


def _start_by(entry: Entry) -> float:
    """A request that was begun and preempted has kept this one."""
    unstarted = entry.state in WAITING and not entry.charged
    return entry.request.start_by if unstarted else math.inf
