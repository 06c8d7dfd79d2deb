"""Adapters for those who wait: what is read from the disk next, who can go on, what nobody wants any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.entry import WAITING, Entry
from lorikeet_server.engine.fairness import Fairness
from lorikeet_server.engine.lifecycle import RequestEvent, RequestState, advance
from lorikeet_server.engine.residency import ON_HOST, Residency

# Adapters read ahead of their requests' turn. The first in each tenant's line may always load, so the
# most is this many and one mix more for each tenant that waits.
MAX_ON_HOST = 32


class Supply:
    """Works on the scheduler's own `entries`, which are in order of arrival."""

    def __init__(self, entries: Mapping[str, Entry], fairness: Fairness, residency: Residency) -> None:
        self._entries = entries
        self._fairness = fairness
        self._residency = residency

    @property
    def lacks(self) -> bool:
        """Whether there is an adapter to be read whose load has not begun."""
        return bool(self._residency.absent(self.line()))

    def line(self) -> tuple[str, ...]:
        """Adapters to be read now, in this order: every one whose load is under way, and those that may begin.

        Pinned ones come first, then whole mixes: the first of each tenant's, then the second of each, as
        many as may lie ready. So a tenant waits for one load of each other tenant before its own next
        one, however many adapters those name.
        """
        pins = self._residency.absent_pins()
        line = dict.fromkeys((*self._residency.loading_pins(), *pins))
        ready = self._residency.on_host + len(pins)
        full: set[str] = set()  # tenants for whom no more may lie ready
        for place, entry in self._turns():
            coming = [each for each in entry.adapters if each not in line]
            absent = self._residency.absent(coming)
            if place and ready + len(absent) > MAX_ON_HOST:
                full.add(entry.tenant)
            if entry.tenant not in full:
                ready += len(absent)
                line |= dict.fromkeys(absent)
            line |= dict.fromkeys(each for each in coming if self._residency.is_loading(each))
        return tuple(line)

    def _turns(self) -> Iterator[tuple[int, Entry]]:
        """Who waits, and the place in the tenant's own line; of equal places the tenant served least comes first."""
        if all(each.state is not RequestState.WAITING_ADAPTER for each in self._entries.values()):
            return
        lines: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            if entry.state in WAITING:
                lines.setdefault(entry.tenant, []).append(entry)
        for own in lines.values():
            own.sort(key=lambda each: (each.request.priority, each.order))
        tenants = sorted(lines, key=self._fairness.served)
        for place, entries in enumerate(zip_longest(*(lines[tenant] for tenant in tenants))):
            yield from ((place, entry) for entry in entries if entry is not None)

    def wake(self, entry: Entry) -> None:
        """Let it go on when all its adapters are near."""
        if all(self._residency.is_near(each) for each in entry.adapters):
            entry.state = advance(entry.state, RequestEvent.ADAPTERS_READY)

    def wake_all(self) -> None:
        for entry in self._entries.values():
            if entry.state is RequestState.WAITING_ADAPTER:
                self.wake(entry)

    def lost(self, evicted: frozenset[str]) -> None:
        """Whoever counted on an adapter just evicted waits for it again, in the old place."""
        for entry in self._entries.values():
            if entry.state is RequestState.WAITING and not evicted.isdisjoint(entry.adapters):
                entry.state = advance(entry.state, RequestEvent.ADAPTER_LOST)

    def waiting_for(self, generation: str) -> tuple[str, ...]:
        """Requests not yet admitted that name this adapter, in order of arrival."""
        return tuple(
            entry.request.id
            for entry in self._entries.values()
            if entry.state in WAITING and generation in entry.adapters
        )

    def drop_unwanted(self, generations: Iterable[str]) -> tuple[str, ...]:
        """Give up host tensors, and loads under way, that nobody waits for; returns whose tensors."""
        dropped = []
        for generation in generations:
            state = self._residency.state(generation)
            if (
                state in ON_HOST
                and not self._residency.is_kept(generation)
                and not self.waiting_for(generation)
            ):
                self._residency.drop(generation)
                dropped += [generation] if state is AdapterState.HOST else []
        return tuple(dropped)
