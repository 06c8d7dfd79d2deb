"""Who computes what in the next step. Pure Python: no torch, no clock, no threads.

Decode comes first: every running request takes part in every step. What is left of the token
budget goes to prompts, in the order of line.py. A request that does not fit now (no slot, no room
in the cache, no rank rows, adapter still loading) keeps its place and lets those behind it pass,
but only so often: see line.PATIENCE. When running requests outgrow the cache, the newest of them
gives its slot back and computes its tokens again later, so the oldest always goes on. The same
happens to the newest of a tenant that holds more than its share of the slots while another waits.
"""

from __future__ import annotations

from collections.abc import Iterable

from lorikeet_server.engine.admission import Admission
from lorikeet_server.engine.batch import Batch, DecodeRow, Load, PrefillChunk, Reuse
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.deadlines import expired, next_deadline
from lorikeet_server.engine.entry import Entry
from lorikeet_server.engine.fairness import INPUT_COST, OUTPUT_COST, Fairness
from lorikeet_server.engine.geometry import Geometry
from lorikeet_server.engine.invariants import check
from lorikeet_server.engine.lifecycle import TERMINAL, RequestEvent, RequestState, advance
from lorikeet_server.engine.line import Line
from lorikeet_server.engine.prefix_index import BLOCK, PrefixIndex, block_keys
from lorikeet_server.engine.request import Failure, Request
from lorikeet_server.engine.residency import Residency
from lorikeet_server.engine.supply import Supply


class Scheduler:
    """Owns the order of requests. `residency` says which adapters are where, `geometry` what the cache holds."""

    def __init__(
        self, config: EngineConfig, residency: Residency, geometry: Geometry, prefixes: PrefixIndex
    ) -> None:
        self.preemptions = 0
        self._config = config
        self._residency = residency
        self._geometry = geometry
        self._prefixes = prefixes
        self._fairness = Fairness()
        self._entries: dict[str, Entry] = {}  # in order of arrival
        self._supply = Supply(self._entries, self._fairness, residency)
        self._arrivals = 0
        self._leaving: list[str] = []
        self._evict: list[str] = []
        self._forget: list[bytes] = []

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    @property
    def idle(self) -> bool:
        """Nothing to compute and nothing to give back: the engine may sleep until a command or a deadline comes."""
        moving = any(entry.state is not RequestState.WAITING_ADAPTER for entry in self._entries.values())
        return not (moving or self._leaving or self._evict or self._forget or self._supply.lacks)

    @property
    def request_ids(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def count(self, *states: RequestState) -> int:
        return sum(entry.state in states for entry in self._entries.values())

    def add(self, request: Request) -> None:
        """Take a request in; its adapters' loads start with the next step."""
        self._arrivals += 1
        entry = Entry(request, RequestState.WAITING_ADAPTER, self._arrivals)
        scored = request.sampling.prompt_logprobs is not None  # every token of its prompt must be computed
        if self._prefixes.blocks and not scored:
            entry.prefix = block_keys(request)
        self._entries[request.id] = entry
        self._fairness.arrive(entry.tenant)
        self._supply.wake(entry)

    def expects(self, load: Load) -> bool:
        """False when the adapter was retired, or its last request went, while its files were read."""
        return self._residency.expects(load.generation, load.ticket)

    def adapter_loaded(self, generation: str, rank: int, blends: bool = True) -> None:
        """Its tensors are on the host; wake those whose every adapter is near now."""
        self._residency.loaded(generation, rank, blends)
        self._supply.wake_all()
        self._evict.extend(self._supply.drop_unwanted((generation,)))

    def adapter_failed(self, generation: str, failure: Failure, now: float) -> tuple[str, ...]:
        """The load failed; returns the requests that cannot go on because of it. A pin waits for the next one."""
        self._residency.failed(generation, failure, now)
        return self._supply.waiting_for(generation)

    def unservable(self) -> tuple[tuple[str, Failure], ...]:
        """Waiting requests whose mix can never run, and why."""
        return tuple(
            (entry.request.id, objection)
            for entry in self._entries.values()
            if entry.state is RequestState.WAITING
            and (objection := self._residency.objection(entry.request.mix))
        )

    def expired(self, now: float) -> tuple[tuple[str, Failure], ...]:
        """Requests whose deadline has passed, and which."""
        return expired(self._entries.values(), now)

    @property
    def next_deadline(self) -> float:
        """The first moment at which a request that is here expires; infinity when none does."""
        return next_deadline(self._entries.values())

    def retire(self, generation: str) -> bool:
        """An adapter nobody names or leases any more gives its rows back in the next step; False if it has none."""
        held = self._residency.retire(generation)
        if held:
            self._evict.append(generation)
        self._forget.extend(self._prefixes.retire(generation))
        return held

    def pin(self, generation: str, pinned: bool) -> None:
        """Load an adapter that no request asks for, and never evict it; or treat it as any other again."""
        self._residency.given_up.discard(generation)
        if pinned:
            self._residency.pinned.add(generation)
        else:
            self._residency.pinned.discard(generation)
            self._evict.extend(self._supply.drop_unwanted((generation,)))

    def schedule(self, beside: int | None = None) -> Batch:
        """Decide the next step, with at most `beside` tokens of prompts if anybody decodes in it."""
        self._prefixes.settle()
        self._make_room()
        promised = self._make_way()
        decode = tuple(
            DecodeRow(entry.request, entry.generated[-1], len(entry.generated) - 1, entry.looked_back_on)
            for entry in self._entries.values()
            if entry.state is RequestState.DECODE
        )
        load = tuple(Load(each, self._residency.load(each)) for each in self._supply.line())
        pinned = self._settle_pinned()
        budget = max(self._config.prefill_tokens - len(decode), 1)
        if decode and beside is not None:
            budget = min(budget, beside)
        insert, reuse, prefill = self._fill(self._admission(promised), budget)
        batch = Batch(
            leave=tuple(self._leaving),
            reuse=reuse,
            forget=tuple(self._forget),
            load=load,
            evict=tuple(self._evict),
            insert=pinned + insert,
            decode=decode,
            prefill=prefill,
        )
        self._leaving, self._evict, self._forget = [], [], []
        check(batch, self._holders(), self._geometry)
        self._residency.check()
        return batch

    def prefilled(self, chunk: PrefillChunk) -> None:
        """The runner has computed this chunk."""
        entry = self._entries[chunk.request.id]
        entry.computed = chunk.stop
        new = (key for key, _ in chunk.keep)
        self._prefixes.add(entry.prefix[: chunk.stop // BLOCK], new, entry.adapters)

    def append(self, request_id: str, token: int) -> None:
        """The request has its next token; the first one ends its prefill."""
        entry = self._entries[request_id]
        if entry.state is RequestState.PREFILL:
            entry.state = advance(entry.state, RequestEvent.PROMPT_DONE)
        entry.generated.append(token)
        self._fairness.charge(entry.tenant, OUTPUT_COST)

    def preempt(self, request_id: str) -> None:
        """Take its slot back; it computes its tokens again when there is room, in its old place."""
        entry = self._entries[request_id]
        entry.state = advance(entry.state, RequestEvent.PREEMPT)
        self.preemptions += 1
        self._leaving.append(request_id)
        self._residency.release(entry.adapters)

    def out_of_memory(self, not_inserted: tuple[str, ...]) -> str | None:
        """Every slot is lost. Returns who ends for it: the newest, of those that need the first of `not_inserted`."""
        holders = self._holders()
        for entry in holders:
            self.preempt(entry.request.id)
        self._residency.put_back(not_inserted)
        self._evict.extend(self._supply.drop_unwanted(not_inserted))
        ending = [each for each in holders if set(not_inserted[:1]) <= set(each.adapters)]
        return ending[-1].request.id if ending else None

    def finish(self, request_id: str, event: RequestEvent) -> RequestState:
        """End a request with a terminal event; its slot is given back in the next step."""
        entry = self._entries[request_id]
        held = entry.holds_slot
        entry.state = advance(entry.state, event)
        assert entry.state in TERMINAL, event
        del self._entries[request_id]
        self._fairness.leave(entry.tenant)
        if held:
            self._leaving.append(request_id)
            self._residency.release(entry.adapters)
        self._evict.extend(self._supply.drop_unwanted(entry.adapters))
        return entry.state

    def _make_room(self) -> None:
        """The coming decode step adds a token to every row: preempt the newest until what remains fits."""
        holders = self._holders()
        while holders and not self._geometry.fits(len(holders), max(each.length for each in holders)):
            self.preempt(holders.pop().request.id)

    def _make_way(self) -> list[Entry]:
        """Tenants with more than their share of the slots give some to those with less; returns who gets them."""
        if self._fairness.at_work < 2:
            return []
        waiting = (each for each in self._entries.values() if each.state is RequestState.WAITING)
        line = Line(waiting, self._fairness, self._residency)
        victims, promised = self._admission().make_way(line, self._fairness.at_work)
        for victim in victims:
            self.preempt(victim.request.id)
        return promised

    def _admission(self, promised: Iterable[Entry] = ()) -> Admission:
        return Admission(self._geometry, self._residency, self._prefixes, self._holders(), promised)

    def _fill(
        self, admission: Admission, budget: int
    ) -> tuple[tuple[str, ...], tuple[Reuse, ...], tuple[PrefillChunk, ...]]:
        """Admit and prefill: (adapters to insert, kept blocks to begin with, prompt chunks)."""
        insert: list[str] = []
        reuse: list[Reuse] = []
        prefill: list[PrefillChunk] = []
        candidates = (
            each
            for each in self._entries.values()
            if each.state is RequestState.PREFILL or (admission.free and each.state is RequestState.WAITING)
        )
        line = Line(candidates, self._fairness, self._residency)
        for entry in line:
            if entry.state is RequestState.WAITING:
                inserted = self._admit(entry, line, admission)
                if inserted is None:
                    continue
                insert.extend(inserted)
                reuse.extend(self._begin(entry))
            if entry.state is RequestState.PREFILL:
                prefill.append(self._next_chunk(entry, budget))
                budget -= len(prefill[-1].tokens)
            if budget <= 0:
                break
        return tuple(insert), tuple(reuse), tuple(prefill)

    def _admit(self, entry: Entry, line: Line, admission: Admission) -> tuple[str, ...] | None:
        """Give it a slot; returns the adapters to insert for it, or None while something it needs is short."""
        moves = admission.admit(entry, line)
        if moves is None:
            return None
        evict, insert = moves
        self._evict.extend(evict)
        entry.state = advance(entry.state, RequestEvent.ADMIT)
        self._supply.lost(frozenset(evict))
        return insert

    def _begin(self, entry: Entry) -> tuple[Reuse, ...]:
        """Count its prompt, once, and take what is kept of it."""
        found = self._prefixes.match(entry.prefix)
        entry.computed = len(found) * BLOCK
        if not entry.charged:
            entry.charged = True
            self._fairness.charge(entry.tenant, INPUT_COST * len(entry.request.prompt))
            self._prefixes.count(hits=entry.computed, of=len(entry.request.prompt))
        return (Reuse(entry.request, found),) if found else ()

    def _settle_pinned(self) -> tuple[str, ...]:
        evict, insert = self._residency.settle_pinned()
        self._evict.extend(evict)
        self._supply.lost(frozenset(evict))
        return insert

    def _next_chunk(self, entry: Entry, budget: int) -> PrefillChunk:
        stop = min(entry.length, entry.computed + budget)
        return PrefillChunk(
            entry.request,
            entry.computed,
            entry.tokens(entry.computed, stop),
            is_last=stop == entry.length,
            index=len(entry.generated),
            keep=self._blocks_to_keep(entry, stop),
            generated=entry.looked_back_on,
        )

    def _blocks_to_keep(self, entry: Entry, stop: int) -> tuple[tuple[bytes, int], ...]:
        first = entry.computed // BLOCK
        ending = list(enumerate(entry.prefix))[first : stop // BLOCK]
        new = {key: place * BLOCK for place, key in ending if key not in self._prefixes}
        kept, given_up = self._prefixes.reserve(tuple(new))
        self._forget.extend(given_up)
        return tuple((key, new[key]) for key in kept)

    def _holders(self) -> list[Entry]:
        """In order of arrival."""
        return [entry for entry in self._entries.values() if entry.holds_slot]
