"""Tenants share the engine: one that floods it does not slow another beyond a stated bound.

The clock is simulated: a step takes one unit and one more for every 64 tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_server.engine.batch import Load
from lorikeet_server.engine.fairness import Fairness
from lorikeet_server.engine.geometry import Geometry
from lorikeet_server.engine.lifecycle import RequestEvent
from tests.server.engine.simulation import Simulation, make_world, request

BUDGET = 128
TOKENS_A_UNIT = 64
SLOTS = Geometry(slots=16, longest=4096, cells=10**9, prompt_cells=10**9)
OPEN_MOST = 100  # requests of the other tenant that wait or run at once
SLOT_S = 64 * (1 + BUDGET / TOKENS_A_UNIT)  # the longest that the flood's 64 tokens can hold a slot


@dataclass(frozen=True, slots=True)
class Waits:
    """Sorted times to the first token."""

    units: tuple[float, ...]

    @property
    def p95(self) -> float:
        return self.units[int(0.95 * len(self.units))]


@dataclass
class Disk:
    """Reads one adapter after another, the first in line next; each takes so many units."""

    units: float
    order: Load | None = None
    done: float = math.inf

    def read(self, world: Simulation, clock: float) -> None:
        if self.order is not None and self.done <= clock:
            world.load_one(fails=False, which=world.loading.index(self.order))
            self.order, self.done = None, math.inf
        if self.order is None and world.loading:
            self.order, self.done = world.loading[0], clock + self.units


def play(seed: int, every: float, factor: float, units: float = 2000, cold: float = 0.0) -> Waits:
    """Tenant `light` asks once in `every` units on average, `other` `factor` times as often.

    With `cold`, each request names an adapter of its own, which takes so many units to read.
    """
    world, chance = make_world(seed, SLOTS, prefill_tokens=BUDGET, rank_rows=64), random.Random(seed)
    disk = Disk(cold)
    arrivals = sorted(
        (at, tenant)
        for tenant, gap in (("light", every), ("other", every / factor))
        for at in moments(chance, gap, units)
    )
    clock, asked, waited = 0.0, dict[str, float](), dict[str, float]()
    spoke: list[str] = []
    world.on_token = spoke.append
    while arrivals or world.loading or not world.scheduler.idle:
        if world.scheduler.idle:
            clock = max(clock, min(disk.done, arrivals[0][0] if arrivals else math.inf))
        disk.read(world, clock)
        while arrivals and arrivals[0][0] <= clock:
            at, tenant = arrivals.pop(0)
            if tenant == "light" or len(world.scheduler.request_ids) < OPEN_MOST:
                asked[ask(world, tenant, len(asked), *(["x"] if cold else []))] = at
        clock += 1 + world.step().tokens / TOKENS_A_UNIT
        disk.read(world, clock)
        for name in spoke:
            waited.setdefault(name, clock - asked[name])
        spoke.clear()
    return Waits(tuple(sorted(wait for name, wait in waited.items() if name.startswith("light"))))


def moments(chance: random.Random, gap: float, units: float) -> list[float]:
    at, found = chance.expovariate(1 / gap), []
    while at < units:
        found.append(at)
        at += chance.expovariate(1 / gap)
    return found


def ask(world: Simulation, tenant: str, number: int, *prefix: str) -> str:
    name = f"{tenant}{number}"
    size = (64, 32) if tenant == "light" else (128, 64)
    adapters = (f"{each}{number}" for each in prefix)
    world.add(request(name, *adapters, prompt=size[0], tokens=size[1], tenant=tenant))
    return name


@pytest.mark.safety("reliability 9")
@pytest.mark.parametrize("every", [40.0, 15.0])
def test_a_flood_at_most_doubles_another_tenants_time_to_the_first_token(every: float) -> None:
    equal, flood = (pooled(play(seed, every, factor) for seed in range(3)) for factor in (1.0, 100.0))
    assert flood.p95 <= 2 * equal.p95
    assert flood.units[-1] <= equal.units[-1] + SLOT_S


@pytest.mark.safety("reliability 9")
@pytest.mark.parametrize("cold", [2.0, 6.0])
def test_a_flood_of_cold_adapters_at_most_doubles_the_wait_for_another_tenants_cold_adapter(
    cold: float,
) -> None:
    equal, flood = (pooled(play(seed, 40.0, each, 600, cold) for seed in range(2)) for each in (1.0, 100.0))
    assert flood.p95 <= 2 * equal.p95
    assert flood.units[-1] <= equal.units[-1] + SLOT_S + cold


def test_an_adapter_far_back_in_one_tenants_line_is_next_when_another_tenant_asks_for_it() -> None:
    world = make_world(rank_rows=64)
    for number in range(20):
        world.add(request(f"many{number}", f"x{number}", tenant="many"))
    assert [order.generation for order in world.step().load] == [f"x{number}" for number in range(20)]
    world.add(request("few", "x19", tenant="few"))
    assert [order.generation for order in world.step().load[:3]] == ["x0", "x19", "x1"]
    world.add(request("few too", "y", tenant="few"))
    world.load_one(fails=False, which=1)
    world.step()
    assert [order.generation for order in world.loading[:4]] == ["x0", "x1", "y", "x2"]


def test_loads_of_requests_that_went_leave_the_line_and_pins_stand_before_all() -> None:
    world = make_world(rank_rows=64)
    world.pin("pinned", True)
    for number in range(3):
        world.add(request(f"r{number}", f"x{number}"))
    for _ in range(2):
        assert [order.generation for order in world.step().load] == ["pinned", "x0", "x1", "x2"]
    world.finish("r0", RequestEvent.ABORT)
    world.finish("r2", RequestEvent.ABORT)
    assert [order.generation for order in world.step().load] == ["pinned", "x1"]


def pooled(runs: Iterable[Waits]) -> Waits:
    return Waits(tuple(sorted(unit for run in runs for unit in run.units)))


def test_a_tenant_gets_its_share_of_the_slots_though_another_holds_them_all() -> None:
    world = make_world(geometry=Geometry(4, 4096, 10**9, 10**9), prefill_tokens=64)
    for number in range(6):
        world.add(request(f"many{number}", prompt=8, tokens=500, tenant="many"))
    world.step()
    for number in range(3):
        world.add(request(f"few{number}", prompt=8, tokens=500, tenant="few"))
    world.step()
    assert sorted(world.slots) == ["few0", "few1", "many0", "many1"], "the newest gave way"
    for _ in range(20):
        world.step()
    assert sorted(world.slots) == ["few0", "few1", "many0", "many1"], "and no more than that"


def test_nobody_gives_way_to_a_request_that_could_not_begin() -> None:
    world = make_world(geometry=Geometry(2, 4096, 10**9, 10**9))
    for number in range(2):
        world.add(request(f"many{number}", "d", prompt=4, tokens=500, tenant="many"))
    world.step()
    world.load_all()
    world.step()
    world.add(request("few", "a", tenant="few"))
    world.step()
    world.load_all()
    for _ in range(5):
        world.step()
        assert sorted(world.slots) == ["many0", "many1"]


def test_within_a_tenant_a_lower_priority_comes_first_and_then_who_came_first() -> None:
    world = make_world(geometry=Geometry(1, 4096, 10**9, 10**9))
    for name, priority in (("plain", 0), ("later", 1), ("urgent", -1), ("plain too", 0)):
        world.add(request(name, tokens=1, priority=priority))
    order: list[str] = []
    world.on_token = order.append
    while not world.scheduler.idle:
        world.step()
    assert order == ["urgent", "plain", "plain too", "later"]


@pytest.mark.safety("reliability 9")
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 1000)), max_size=60))
def test_nobody_comes_back_with_service_saved_up(moves: list[tuple[str, bool, int]]) -> None:
    fairness, open_requests = Fairness(), dict.fromkeys("abc", 0)
    for tenant, arrives, tokens in moves:
        at_work = [fairness.served(each) for each, count in open_requests.items() if count]
        if arrives:
            fresh = not open_requests[tenant]
            fairness.arrive(tenant)
            open_requests[tenant] += 1
            if fresh and at_work:
                assert fairness.served(tenant) >= min(at_work) - 1
            fairness.charge(tenant, tokens)
        elif open_requests[tenant]:
            fairness.leave(tenant)
            open_requests[tenant] -= 1
    assert fairness.at_work == sum(map(bool, open_requests.values()))
