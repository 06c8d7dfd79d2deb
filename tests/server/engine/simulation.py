"""Engine, runner and loader as bookkeeping, so that the scheduler meets any traffic in microseconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.mix import Mix, Term
from lorikeet_server.engine.batch import Batch, Load, PrefillChunk
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.geometry import Geometry, columns_for
from lorikeet_server.engine.lifecycle import RequestEvent
from lorikeet_server.engine.prefix_index import BLOCK, PrefixIndex
from lorikeet_server.engine.request import Failure, Request, Sampling
from lorikeet_server.engine.residency import Residency
from lorikeet_server.engine.scheduler import Scheduler

RANKS = {"a": 4, "b": 8, "c": 8, "d": 16}
UNREADABLE = Failure("adapter_refused", "its files cannot be read")
WIDE = Geometry(slots=2, longest=10_000, cells=10**9, prompt_cells=10**9)


def rank(adapter: str) -> int:
    return RANKS.get(adapter, 1)


def request(
    name: str, *adapters: str, prompt: int = 5, tokens: int = 3, tenant: str = "", **more: float
) -> Request:
    mix = Mix.of(Term(adapter, 1.0) for adapter in adapters)
    return Request(name, tuple(range(prompt)), Sampling(max_tokens=tokens), mix, tenant, **more)  # type: ignore[arg-type]  # what the test gives


@dataclass
class Simulation:
    """One token a row and step; loads take a random while. `on_token` hears of every token."""

    scheduler: Scheduler
    chance: random.Random
    geometry: Geometry
    block_budget: int
    rows: int = 16
    resident: set[str] = field(default_factory=set)
    host: set[str] = field(default_factory=set)
    loading: list[Load] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)  # tokens whose keys and values are held
    prompts: set[str] = field(default_factory=set)  # of them, those not yet in a slot
    blocks: set[bytes] = field(default_factory=set)
    requests: dict[str, Request] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    endings: dict[str, list[RequestEvent]] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)  # their last load failed or found no memory
    computed: int = 0  # prompt tokens
    on_token: Callable[[str], None] = lambda request_id: None

    def add(self, each: Request) -> None:
        self.requests[each.id] = each
        self.endings[each.id] = []
        self.tokens[each.id] = []
        self.scheduler.add(each)
        self.fail_unservable()

    def fail_unservable(self) -> None:
        for request_id, _ in self.scheduler.unservable():
            self.finish(request_id, RequestEvent.FAIL)

    def finish(self, request_id: str, event: RequestEvent) -> None:
        self.scheduler.finish(request_id, event)
        self.endings[request_id].append(event)

    def pin(self, adapter: str, pinned: bool) -> None:
        """As far as the registry allows: the pinned fit the rows together."""
        after = self.pins | {adapter} if pinned else self.pins - {adapter}
        if sum(map(rank, after)) <= self.rows:
            self.pins = after
            self.given_up.discard(adapter)
            self.scheduler.pin(adapter, pinned)
            self.fail_unservable()

    def load_one(self, fails: bool, which: int | None = None) -> None:
        order = self.loading.pop(self.chance.randrange(len(self.loading)) if which is None else which)
        generation = order.generation
        if not self.scheduler.expects(order):
            return
        if fails:
            self.given_up.add(generation)
            for request_id in self.scheduler.adapter_failed(generation, UNREADABLE, now=0.0):
                self.finish(request_id, RequestEvent.FAIL)
            return
        self.given_up.discard(generation)
        self.host.add(generation)
        self.scheduler.adapter_loaded(generation, rank(generation))
        self.fail_unservable()

    def load_all(self) -> None:
        while self.loading:
            self.load_one(fails=False)

    def step(self, out_of_memory: bool = False) -> Batch:
        batch = self.scheduler.schedule()
        self.scheduler._residency.recount()
        fits = len(batch.insert)
        if out_of_memory and fits and self.chance.random() < 0.5:
            fits = self.chance.randrange(fits)
        self.move(batch, fits)
        if fits < len(batch.insert):
            self.lose_everything(batch.insert[fits:])
            return batch
        for row in batch.decode:
            own = self.tokens[row.request.id]
            assert (row.token, row.index) == (own[-1], len(own) - 1)
            assert self.slots[row.request.id] == len(row.request.prompt) + len(own) - 1
            self.slots[row.request.id] += 1
        self.check_cells()
        for row in batch.decode:
            self.advance(row.request)
        if out_of_memory:
            self.lose_everything()
            return batch
        for chunk in batch.prefill:
            self.prefill(chunk)
        self.check_cells()
        return batch

    def prefill(self, chunk: PrefillChunk) -> None:
        request, own = chunk.request, self.tokens[chunk.request.id]
        assert chunk.start == self.slots.setdefault(request.id, 0), "chunks follow one another"
        assert set(request.mix.adapters) <= self.resident
        sequence = (*request.prompt, *own)
        assert chunk.tokens == sequence[chunk.start : chunk.stop]
        assert chunk.tokens
        assert chunk.is_last is (chunk.stop == len(sequence))
        self.computed += max(min(chunk.stop, len(request.prompt)) - chunk.start, 0)
        self.slots[request.id] = chunk.stop
        self.prompts.add(request.id)
        for key, start in chunk.keep:
            assert start + BLOCK <= chunk.stop
            self.blocks.add(key)
        assert len(self.blocks) <= self.block_budget
        self.scheduler.prefilled(chunk)
        if chunk.is_last:
            assert chunk.index == len(own)
            self.prompts.remove(request.id)
            self.advance(request)

    def lose_everything(self, not_inserted: tuple[str, ...] = ()) -> None:
        self.given_up |= self.pins & set(not_inserted)
        self.slots.clear()
        self.prompts.clear()
        newest = self.scheduler.out_of_memory(not_inserted)
        if newest is not None:
            self.finish(newest, RequestEvent.FAIL)

    def move(self, batch: Batch, fits: int) -> None:
        """Only the first `fits` of the adapters to insert find memory."""
        for request_id in batch.leave:
            self.slots.pop(request_id, None)
            self.prompts.discard(request_id)
        for each in batch.reuse:
            assert set(each.keys) <= self.blocks
            assert each.request.id not in self.slots
            self.slots[each.request.id] = len(each.keys) * BLOCK
            self.prompts.add(each.request.id)
        assert set(batch.forget) <= self.blocks
        self.blocks -= set(batch.forget)
        self.loading = list(batch.load)
        assert all(map(self.scheduler.expects, batch.load))
        states = self.scheduler._residency.states().values()
        assert len(batch.load) == list(states).count(AdapterState.LOADING), "a load that nobody reads"
        again = {order.generation for order in batch.load}  # dropped, then pinned before the step
        assert (self.pins - self.given_up) & set(batch.evict) <= again, "a pinned adapter was evicted"
        for generation in batch.evict:
            (self.host if generation in self.host else self.resident).remove(generation)
        for generation in batch.insert[:fits]:
            self.host.remove(generation)
            self.resident.add(generation)
        assert sum(map(rank, self.resident)) <= self.rows
        assert {row.request.id for row in batch.decode} == self.slots.keys() - self.prompts

    def check_cells(self) -> None:
        rows = [held for request_id, held in self.slots.items() if request_id not in self.prompts]
        assert len(self.slots) <= self.geometry.slots
        assert not rows or len(rows) * columns_for(max(rows)) <= self.geometry.cells
        assert sum(self.slots[each] for each in self.prompts) <= self.geometry.prompt_cells

    def advance(self, each: Request) -> None:
        assert set(each.mix.adapters) <= self.resident, "a running request lost its adapter"
        token = len(self.tokens[each.id]) + 1000
        self.scheduler.append(each.id, token)
        self.tokens[each.id].append(token)
        self.on_token(each.id)
        if len(self.tokens[each.id]) == each.sampling.max_tokens:
            self.finish(each.id, RequestEvent.EXHAUST)


def make_world(seed: int = 0, geometry: Geometry = WIDE, blocks: int = 0, **overrides: int) -> Simulation:
    """`overrides` of the engine's configuration; two slots, sixteen rank rows and eight tokens a step else."""
    config = EngineConfig(**{"max_slots": geometry.slots, "rank_rows": 16, "prefill_tokens": 8, **overrides})
    geometry = replace(geometry, slots=config.max_slots)
    scheduler = Scheduler(config, Residency(config.rank_rows), geometry, PrefixIndex(blocks))
    return Simulation(scheduler, random.Random(seed), geometry, blocks, config.rank_rows)
