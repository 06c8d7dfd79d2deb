"""The scheduler over random traffic, with a runner that is only bookkeeping."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorikeet_server.engine.geometry import Geometry, columns_for
from lorikeet_server.engine.lifecycle import RequestEvent
from lorikeet_server.engine.line import PATIENCE
from lorikeet_server.engine.supply import MAX_ON_HOST
from tests.server.engine.simulation import RANKS, make_world, request


@pytest.mark.safety("reliability 5")
@example(seed=4264, count=10, fail=0.25, cancel=0.0, pin=0.1875)  # a load that comes last
@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 20),
    fail=st.floats(0, 0.5),
    cancel=st.floats(0, 0.2),
    pin=st.just(0.0) | st.floats(0, 0.3),
)
def test_every_request_ends_exactly_once_whatever_happens(
    seed: int, count: int, fail: float, cancel: float, pin: float
) -> None:
    play(seed, count, fail, cancel, pin)


def play(seed: int, count: int, fail: float, cancel: float, pin: float) -> None:
    """Random traffic of three tenants through a cache that is sometimes too small for it."""
    chance = random.Random(seed)
    scale = chance.choice([1, 1, 16])
    longest = 40 * scale
    cells = chance.choice([columns_for(longest), columns_for(2 * longest), 3 * columns_for(longest)])
    geometry = Geometry(chance.choice([2, 3, 9]), longest, cells, chance.choice([longest, 2 * longest]))
    blocks = chance.choice([0, 1, 3, 100])
    world = make_world(seed, geometry, blocks, prefill_tokens=8 * scale)
    chance = world.chance
    pending = [
        request(
            f"r{n}",
            *chance.sample(list(RANKS), chance.randrange(3)),
            prompt=chance.randrange(1, 30 * scale),
            tokens=chance.randrange(1, 10 * scale),
            tenant=chance.choice("xxxyz"),
            priority=chance.randrange(-1, 2),
        )
        for n in range(count)
    ]
    lose = chance.choice([0.0, 0.0, 0.05])
    for _ in range(200 * scale * count):
        if pending and chance.random() < 0.4:
            world.add(pending.pop())
        if world.loading and chance.random() < 0.5:
            world.load_one(fails=chance.random() < fail)
        if chance.random() < pin:
            world.pin(chance.choice(list(RANKS)), chance.random() < 0.5)
        for request_id in world.scheduler.request_ids:
            if chance.random() < cancel * 0.1:
                world.finish(request_id, RequestEvent.ABORT)
        if not world.scheduler.idle:
            world.step(out_of_memory=chance.random() < lose)
        if not (pending or world.scheduler.request_ids):
            break
    assert not pending
    assert {len(each) for each in world.endings.values()} == {1}
    while world.loading or not world.scheduler.idle:
        if world.loading:
            world.load_one(fails=False)
        world.step()
    world.step()  # as the engine does after each command, whether or not there is more to do
    assert world.pins - world.given_up <= world.resident, (
        "what is pinned comes up when there is nothing else to do"
    )
    for adapter in sorted(world.pins):
        world.pin(adapter, False)
    while not world.scheduler.idle:
        world.step()
    assert not world.slots, "a slot was not given back"
    assert len(world.blocks) <= blocks
    assert not world.host, "host tensors that nobody waits for were kept"


def test_decode_comes_first_and_prompts_share_what_is_left_of_the_budget() -> None:
    world = make_world()
    world.add(request("first", prompt=8, tokens=9))
    assert [chunk.stop for chunk in world.step().prefill] == [8]
    world.add(request("long", prompt=10))
    batch = world.step()
    assert [row.request.id for row in batch.decode] == ["first"]
    assert [(chunk.start, chunk.stop) for chunk in batch.prefill] == [(0, 7)]
    assert [(chunk.start, chunk.stop) for chunk in world.step().prefill] == [(7, 10)]


def test_a_request_without_its_adapter_keeps_its_place_and_blocks_nobody() -> None:
    world = make_world(max_slots=1)
    world.add(request("waits", "a", tokens=1))
    world.add(request("passes", tokens=2))
    assert [chunk.request.id for chunk in world.step().prefill] == ["passes"]
    world.add(request("later", tokens=1))
    world.load_one(fails=False)
    world.step()
    assert [chunk.request.id for chunk in world.step().prefill] == ["waits"]
    assert [chunk.request.id for chunk in world.step().prefill] == ["later"]


def test_the_least_recently_used_idle_adapter_makes_room() -> None:
    world = make_world()
    for name in ("b", "c"):
        world.add(request(name, name, tokens=1))
        world.step()
        world.load_one(fails=False)
        world.step()
    assert world.resident == {"b", "c"}
    world.add(request("again", "b", tokens=1))
    world.step()
    world.add(request("new", "a", tokens=1))
    world.step()
    world.load_one(fails=False)
    batch = world.step()
    assert batch.evict == ("c",)
    assert world.resident == {"a", "b"}


def test_a_mix_with_more_rows_than_there_are_is_refused_once_its_ranks_are_known() -> None:
    world = make_world()
    world.add(request("large", "b", "d"))
    world.step()
    world.load_one(fails=False)
    assert world.endings["large"] == []
    world.load_one(fails=False)
    assert world.endings["large"] == [RequestEvent.FAIL]


def test_a_failed_load_ends_those_who_wait_and_the_next_request_tries_again() -> None:
    world = make_world()
    world.add(request("unlucky", "a"))
    world.step()
    world.load_one(fails=True)
    assert world.endings["unlucky"] == [RequestEvent.FAIL]
    world.add(request("second", "a"))
    assert [order.generation for order in world.step().load] == ["a"]


def test_retiring_gives_rows_back_and_forgets() -> None:
    world = make_world()
    world.add(request("only", "a", tokens=1))
    world.step()
    world.load_one(fails=False)
    world.step()
    world.scheduler.retire("a")
    assert world.step().evict == ("a",)
    assert not world.resident


def test_the_outcome_of_a_load_that_was_retired_is_not_taken_for_that_of_the_next() -> None:
    world = make_world()
    world.add(request("first", "a"))
    (stale,) = world.step().load
    world.finish("first", RequestEvent.ABORT)
    world.scheduler.retire("a")
    world.add(request("second", "a"))
    (fresh,) = world.step().load
    assert not world.scheduler.expects(stale)
    assert world.scheduler.expects(fresh)


def test_a_wide_mix_is_passed_a_stated_number_of_times_and_then_comes_next() -> None:
    world = make_world(max_slots=3)
    world.add(request("first", "a", tokens=5))
    world.step()
    world.load_one(fails=False)
    world.step()
    world.add(request("wide", "d", tokens=1))
    arrived = 0
    while "wide" in world.scheduler and arrived < 10 * PATIENCE:
        # One comes while the one before still runs, so the adapter is in use at every moment.
        world.add(request(f"narrow{arrived}", "a", tokens=2))
        arrived += 1
        while world.loading:
            world.load_one(fails=False)
        world.step()
    assert world.endings["wide"] == [RequestEvent.EXHAUST]
    assert PATIENCE < arrived < PATIENCE + 10


def test_what_takes_no_rows_from_a_mix_that_waits_may_always_pass() -> None:
    world = make_world(max_slots=2)
    world.add(request("holds", "a", tokens=9 * PATIENCE))
    world.step()
    world.load_one(fails=False)
    world.step()
    world.add(request("wide", "d"))
    for number in range(3 * PATIENCE):
        world.add(request(f"base{number}", tokens=1))
        if number == 0:
            world.step()
            world.load_one(fails=False)
        world.step()
        assert world.endings[f"base{number}"] == [RequestEvent.EXHAUST]


def test_adapters_are_read_ahead_in_order_of_arrival_up_to_a_bound() -> None:
    world = make_world(max_slots=1)
    world.add(request("runs", tokens=1000))
    world.step()
    for number in range(3 * MAX_ON_HOST):
        world.add(request(f"r{number}", f"x{number:03}"))
    for _ in range(10):
        world.step()
        while world.loading:
            world.load_one(fails=False)
    assert sorted(world.host) == [f"x{number:03}" for number in range(MAX_ON_HOST)]
    world.finish("runs", RequestEvent.ABORT)
    while not world.scheduler.idle or world.loading:
        while world.loading:
            world.load_one(fails=False)
        world.step()
    assert all(world.endings[f"r{number}"] == [RequestEvent.EXHAUST] for number in range(3 * MAX_ON_HOST))


def test_the_first_in_line_loads_even_when_others_fill_the_host() -> None:
    """Half-loaded mixes could otherwise wait for each other for ever."""
    world = make_world()
    world.add(request("brings", "a", "b", tokens=1))
    world.step()
    world.load_one(fails=False)
    world.load_one(fails=False)
    world.step()
    for number in range(MAX_ON_HOST - 1):
        world.add(request(f"r{number}", f"x{number:03}", "a", "b"))
    world.add(request("takes", "d", tokens=1))
    world.step()
    world.load_one(fails=False, which=-1)
    assert set(world.step().evict) == {"a", "b"}, "every mix that waits has lost two of three"
    for _ in range(100 * MAX_ON_HOST):
        if world.loading:
            world.load_one(fails=False)
        if not world.scheduler.idle:
            world.step()
    assert not world.scheduler.request_ids


@pytest.mark.parametrize("event", [RequestEvent.STOP, RequestEvent.ABORT])
def test_finishing_twice_is_a_bug_that_shows(event: RequestEvent) -> None:
    world = make_world()
    world.add(request("once", tokens=5))
    world.step()
    world.finish("once", event)
    with pytest.raises(KeyError):
        world.finish("once", event)


def test_a_pinned_adapter_stays_though_it_was_used_least_recently() -> None:
    world = make_world()
    world.pin("a", True)
    world.step()
    world.load_one(fails=False)
    assert world.step().insert == ("a",), "without a request"
    for name, evicted in (("b", ()), ("c", ("b",))):
        world.add(request(name, name, tokens=1))
        world.step()
        world.load_one(fails=False)
        assert world.step().evict == evicted
    world.pin("a", False)
    world.add(request("again", "b", tokens=1))
    world.step()
    world.load_one(fails=False)
    assert world.step().evict == ("a",), "as any other again"


def test_a_pin_outlasts_a_load_that_failed() -> None:
    """Nobody says again that it is pinned, so what a bad moment of the disk took would be gone for good."""
    world = make_world()
    world.pin("a", True)
    world.step()
    world.load_one(fails=True)
    assert world.scheduler.idle, "it is not tried again and again"
    world.add(request("asks", "a", tokens=1))
    world.step()
    world.load_one(fails=False)
    assert world.step().insert == ("a",)
    for name in "bc":
        world.add(request(name, name, tokens=1))
        world.step()
        world.load_one(fails=False)
        assert "a" not in world.step().evict


def test_pinning_again_tries_a_failed_load_again() -> None:
    world = make_world()
    world.pin("a", True)
    world.step()
    world.load_one(fails=True)
    world.pin("a", True)
    assert [order.generation for order in world.step().load] == ["a"]
