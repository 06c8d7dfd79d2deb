"""Who computes what in the next step. Pure Python: no torch, no clock, no threads.

Decode comes first: every running request takes part in every step. What is left of the token
budget goes to prompts in order of arrival. A request that does not fit now (no slot, no rank rows,
adapter still loading) keeps its place and lets those behind it pass, but only so often when it is
rank rows it waits for: see PATIENCE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_server.engine.batch import Batch, DecodeRow, Load, PrefillChunk
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.lifecycle import TERMINAL, RequestEvent, RequestState, advance
from lorikeet_server.engine.request import Failure, Request
from lorikeet_server.engine.residency import Residency

WAITING = (RequestState.WAITING, RequestState.WAITING_ADAPTER)
# How many later requests may take rank rows before one that waits for rows. Then whoever would need
# rows of other adapters waits behind it, so a wide mix starts once what runs has ended.
PATIENCE = 16
# Adapters read ahead of their requests' turn. The first in line may always load, so the most is
# this many and one mix more.
MAX_ON_HOST = 32


@dataclass(slots=True)
class _Entry:
    request: Request
    state: RequestState
    computed: int = 0  # prompt tokens
    generated: list[int] = field(default_factory=list)
    passed: int = 0  # later requests that took rank rows while this one waited for some

    @property
    def adapters(self) -> tuple[str, ...]:
        return self.request.mix.adapters

    @property
    def holds_slot(self) -> bool:
        return self.state in (RequestState.PREFILL, RequestState.DECODE)


class Scheduler:
    """Owns the order of requests. `residency` says which adapters are where."""

    def __init__(self, config: EngineConfig, residency: Residency) -> None:
        self._config = config
        self._residency = residency
        self._entries: dict[str, _Entry] = {}  # in order of arrival
        self._leaving: list[str] = []
        self._evict: list[str] = []

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to give back: the engine may sleep until a command comes."""
        moving = any(entry.state is not RequestState.WAITING_ADAPTER for entry in self._entries.values())
        return not (moving or self._leaving or self._evict or self._wanted())

    @property
    def request_ids(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def count(self, *states: RequestState) -> int:
        return sum(entry.state in states for entry in self._entries.values())

    def add(self, request: Request) -> None:
        """Take a request in; its adapters' loads start with the next step."""
        entry = _Entry(request, RequestState.WAITING_ADAPTER)
        self._entries[request.id] = entry
        self._wake(entry)

    def expects(self, load: Load) -> bool:
        """False when the adapter was retired while its files were read."""
        return self._residency.expects(load.generation, load.ticket)

    def adapter_loaded(self, generation: str, rank: int, blends: bool = True) -> None:
        """Its tensors are on the host; wake those whose every adapter is near now."""
        self._residency.loaded(generation, rank, blends)
        for entry in self._entries.values():
            if entry.state is RequestState.WAITING_ADAPTER:
                self._wake(entry)
        self._drop_unwanted((generation,))

    def adapter_failed(self, generation: str) -> tuple[str, ...]:
        """The load failed; returns the requests that cannot go on because of it. A pin is given up too."""
        self._residency.failed(generation)
        self._residency.pinned.discard(generation)
        return self.waiting_for(generation)

    def unservable(self) -> tuple[tuple[str, Failure], ...]:
        """Waiting requests whose mix can never run, and why."""
        return tuple(
            (entry.request.id, objection)
            for entry in self._entries.values()
            if entry.state is RequestState.WAITING
            and (objection := self._residency.objection(entry.request.mix))
        )

    def waiting_for(self, generation: str) -> tuple[str, ...]:
        """Requests not yet admitted that name this adapter, in order of arrival."""
        return tuple(
            entry.request.id
            for entry in self._entries.values()
            if entry.state in WAITING and generation in entry.adapters
        )

    def retire(self, generation: str) -> bool:
        """An adapter nobody names or leases any more gives its rows back in the next step; False if it has none."""
        held = self._residency.retire(generation)
        if held:
            self._evict.append(generation)
        return held

    def pin(self, generation: str, pinned: bool) -> None:
        """Load an adapter that no request asks for, and never evict it; or treat it as any other again."""
        if pinned:
            self._residency.pinned.add(generation)
        else:
            self._residency.pinned.discard(generation)
            self._drop_unwanted((generation,))

    def schedule(self) -> Batch:
        """Decide the next step."""
        decode = tuple(
            DecodeRow(entry.request, entry.generated[-1], len(entry.generated) - 1)
            for entry in self._entries.values()
            if entry.state is RequestState.DECODE
        )
        load = tuple(Load(each, self._residency.load(each)) for each in self._wanted())
        budget = max(self._config.prefill_tokens - len(decode), 1)
        pinned = self._settle_pinned()
        insert, prefill = self._fill(budget)
        batch = Batch(tuple(self._leaving), load, tuple(self._evict), pinned + insert, decode, prefill)
        self._leaving, self._evict = [], []
        self._check(batch)
        return batch

    def prefilled(self, chunk: PrefillChunk) -> None:
        """The runner has computed this chunk."""
        self._entries[chunk.request.id].computed = chunk.stop

    def append(self, request_id: str, token: int) -> None:
        """The request has its next token; the first one ends its prefill."""
        entry = self._entries[request_id]
        if entry.state is RequestState.PREFILL:
            entry.state = advance(entry.state, RequestEvent.PROMPT_DONE)
        entry.generated.append(token)

    def finish(self, request_id: str, event: RequestEvent) -> RequestState:
        """End a request with a terminal event; its slot is given back in the next step."""
        entry = self._entries[request_id]
        held = entry.holds_slot
        entry.state = advance(entry.state, event)
        assert entry.state in TERMINAL, event
        del self._entries[request_id]
        if held:
            self._leaving.append(request_id)
            self._residency.release(entry.adapters)
        self._drop_unwanted(entry.adapters)
        return entry.state

    def _fill(self, budget: int) -> tuple[tuple[str, ...], tuple[PrefillChunk, ...]]:
        """Admit and prefill in order of arrival: (adapters to insert, prompt chunks)."""
        insert: list[str] = []
        prefill: list[PrefillChunk] = []
        short: list[_Entry] = []  # they wait for rank rows
        free = self._config.max_slots - self._slots_used()
        for entry in self._entries.values():
            if budget <= 0:
                break
            if entry.state is RequestState.WAITING and free and _may_pass(entry, short):
                inserted = self._admit(entry)
                if inserted is None:
                    short.append(entry)
                    continue
                insert.extend(inserted)
                free -= 1
                for each in short:
                    each.passed += bool(entry.adapters)
            if entry.state is RequestState.PREFILL:
                prefill.append(self._next_chunk(entry, budget))
                budget -= prefill[-1].stop - prefill[-1].start
        return tuple(insert), tuple(prefill)

    def _admit(self, entry: _Entry) -> tuple[str, ...] | None:
        """Give it a slot; returns the adapters to insert for it, or None while rank rows are short."""
        moves = self._residency.admit(entry.adapters)
        if moves is None:
            return None
        evict, insert = moves
        self._evict.extend(evict)
        entry.state = advance(entry.state, RequestEvent.ADMIT)
        self._send_back(frozenset(evict))
        return insert

    def _settle_pinned(self) -> tuple[str, ...]:
        evict, insert = self._residency.settle_pinned()
        self._evict.extend(evict)
        self._send_back(frozenset(evict))
        return insert

    def _wake(self, entry: _Entry) -> None:
        if all(self._residency.is_near(each) for each in entry.adapters):
            entry.state = advance(entry.state, RequestEvent.ADAPTERS_READY)

    def _wanted(self) -> tuple[str, ...]:
        """Adapters to start loading now: whole mixes, in order of arrival, as many as may lie ready."""
        wanted = dict.fromkeys(self._residency.absent(sorted(self._residency.pinned)))
        on_host = self._residency.on_host
        for place, entry in enumerate(each for each in self._entries.values() if each.state in WAITING):
            absent = [each for each in self._residency.absent(entry.adapters) if each not in wanted]
            if place and on_host + len(wanted) + len(absent) > MAX_ON_HOST:
                break
            wanted |= dict.fromkeys(absent)
        return tuple(wanted)

    def _send_back(self, evicted: frozenset[str]) -> None:
        """Whoever counted on an adapter just evicted waits for it again, in the old place."""
        for entry in self._entries.values():
            if entry.state is RequestState.WAITING and not evicted.isdisjoint(entry.adapters):
                entry.state = advance(entry.state, RequestEvent.ADAPTER_LOST)

    def _drop_unwanted(self, generations: Iterable[str]) -> None:
        for generation in generations:
            on_host = self._residency.state(generation) is AdapterState.HOST
            pinned = generation in self._residency.pinned
            if on_host and not pinned and not self.waiting_for(generation):
                self._residency.drop(generation)
                self._evict.append(generation)

    def _next_chunk(self, entry: _Entry, budget: int) -> PrefillChunk:
        stop = min(len(entry.request.prompt), entry.computed + budget)
        return PrefillChunk(entry.request, entry.computed, stop)

    def _slots_used(self) -> int:
        return sum(entry.holds_slot for entry in self._entries.values())

    def _check(self, batch: Batch) -> None:
        assert self._slots_used() <= self._config.max_slots
        assert not set(batch.leave) & self._entries.keys(), "a request left and stayed"
        assert set(_ids(batch.decode)).isdisjoint(_ids(batch.prefill))
        self._residency.check()


def _may_pass(entry: _Entry, short: Iterable[_Entry]) -> bool:
    """Whether it takes nothing from a request that has been passed too often."""
    return all(each.passed < PATIENCE or set(entry.adapters) <= set(each.adapters) for each in short)


def _ids(rows: Iterable[DecodeRow | PrefillChunk]) -> tuple[str, ...]:
    return tuple(row.request.id for row in rows)
