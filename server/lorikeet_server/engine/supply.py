"""Adapters for those who wait: what is read from the disk next, who can go on, what nobody wants any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.entry import WAITING, Entry
from lorikeet_server.engine.lifecycle import RequestEvent, RequestState, advance
from lorikeet_server.engine.residency import Residency

# Adapters read ahead of their requests' turn. The first in line may always load, so the most is
# this many and one mix more.
MAX_ON_HOST = 32


class Supply:
    """Works on the scheduler's own `entries`, which are in order of arrival."""

    def __init__(self, entries: Mapping[str, Entry], residency: Residency) -> None:
        self._entries = entries
        self._residency = residency

    def wanted(self) -> tuple[str, ...]:
        """Adapters to start loading now: whole mixes, in order of arrival, as many as may lie ready."""
        wanted = dict.fromkeys(self._residency.absent_pins())
        on_host = self._residency.on_host
        for place, entry in enumerate(each for each in self._entries.values() if each.state in WAITING):
            absent = [each for each in self._residency.absent(entry.adapters) if each not in wanted]
            if place and on_host + len(wanted) + len(absent) > MAX_ON_HOST:
                break
            wanted |= dict.fromkeys(absent)
        return tuple(wanted)

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
        """Give up host tensors that nobody waits for; returns which."""
        dropped = []
        for generation in generations:
            on_host = self._residency.state(generation) is AdapterState.HOST
            pinned = generation in self._residency.pinned - self._residency.given_up
            if on_host and not pinned and not self.waiting_for(generation):
                self._residency.drop(generation)
                dropped.append(generation)
        return tuple(dropped)
