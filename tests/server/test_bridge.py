"""Leases are released exactly once, a dropped stream is a cancelled request, death is remembered."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.registry import Registry
from lorikeet_server import bridge
from lorikeet_server.bridge import Bridge, EventStream
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.failures import DEAD
from lorikeet_server.engine.request import Event, Finished, FinishReason, Request, Sampling, Token
from lorikeet_server.errors import EngineDead, RequestRefused, ServerBusy, ServerDraining, TenantBusy
from lorikeet_server.limits import Amount, Limits
from tests.server.world import Exchange, Server

SOON = 20.0
MIX = Mix((Term("a" * 64, 1.0),))


@dataclass
class Leases:
    """Stands in for the registry: counts what is released."""

    released: Counter[Mix] = field(default_factory=Counter)

    def release(self, mix: Mix) -> None:
        self.released[mix] += 1


class HandEngine:
    """Stands in for the engine: the test publishes, and decides when and how the thread ends."""

    def __init__(self) -> None:
        self.failure: Any = None
        self.publish: Callable[[list[Event]], None] = lambda events: None
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.error: Exception | None = None
        self._over = threading.Event()

    def run(self) -> None:
        self._over.wait(SOON)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self._over.set()

    def submit(self, request: Request) -> None:
        self.submitted.append(request.id)

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


@dataclass
class Hand:
    bridge: Bridge
    engine: HandEngine
    leases: Leases
    observed: list[Event]


@asynccontextmanager
async def by_hand(
    max_open: float = 4,
    max_tenant: float = math.inf,
    max_tokens: float = math.inf,
    max_tenant_tokens: float = math.inf,
) -> AsyncIterator[Hand]:
    engine, leases, observed = HandEngine(), Leases(), list[Event]()
    as_engine: Engine = engine  # type: ignore[assignment]
    as_registry: Registry = leases  # type: ignore[assignment]
    limits = Limits(Amount(max_open, max_tokens), Amount(max_tenant, max_tenant_tokens))
    bridge = Bridge(as_engine, as_registry, limits, lambda request, event: observed.append(event))
    bridge.start()
    yield Hand(bridge, engine, leases, observed)
    await bridge.stop()


def request(name: str, tenant: str = "", tokens: int = 2) -> Request:
    return Request(name, (1,) * tokens, Sampling(max_tokens=4), MIX, tenant)


def said(name: str, index: int = 0) -> Token:
    return Token(name, index, 5, -1.0, "x")


def over(name: str, reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished(name, reason, 1)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), SOON))


async def everything(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


def test_events_reach_their_own_stream_in_order() -> None:
    async def scenario() -> None:
        async with by_hand() as hand:
            one, two = hand.bridge.submit([request("one"), request("two")])
            hand.engine.publish([said("one"), said("two"), said("one", 1), over("two")])
            hand.engine.publish([over("one")])
            assert await everything(one) == [said("one"), said("one", 1), over("one")]
            assert await everything(two) == [said("two"), over("two")]
            assert hand.engine.submitted == ["one", "two"]
            assert len(hand.observed) == 5

    play(scenario)


def test_a_lease_is_released_once_at_the_terminal_event() -> None:
    async def scenario() -> None:
        async with by_hand() as hand:
            (stream,) = hand.bridge.submit([request("one")])
            hand.engine.publish([said("one")])
            await anext(stream)
            assert hand.leases.released[MIX] == 0
            stream.close()
            stream.close()
            assert hand.leases.released[MIX] == 0, "the engine still computes with it"
            hand.engine.publish([over("one", FinishReason.ABORTED), over("one"), said("one")])
            await asyncio.sleep(0)
            await asyncio.to_thread(lambda: None)
            assert hand.leases.released[MIX] == 1
            assert hand.engine.cancelled == ["one"]
            del stream
            gc.collect()
            assert hand.engine.cancelled == ["one"]
        assert hand.leases.released[MIX] == 1

    play(scenario)


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_nobody_holds_any_more_is_cancelled(begun: bool) -> None:
    async def scenario() -> None:
        async with by_hand() as hand:
            streams = hand.bridge.submit([request("one")])
            if begun:
                hand.engine.publish([said("one")])
                await anext(streams[0])
            del streams
            gc.collect()
            assert hand.engine.cancelled == ["one"]

    play(scenario)


def test_a_finished_stream_is_not_cancelled() -> None:
    async def scenario() -> None:
        async with by_hand() as hand:
            (stream,) = hand.bridge.submit([request("one")])
            hand.engine.publish([over("one")])
            await everything(stream)
            assert await everything(stream) == []
            stream.close()
            assert hand.engine.cancelled == []

    play(scenario)


@pytest.mark.safety("reliability 3")
def test_over_the_bound_everything_is_refused_and_released() -> None:
    async def scenario() -> None:
        async with by_hand(max_open=2) as hand:
            (kept,) = hand.bridge.submit([request("one")])
            with pytest.raises(ServerBusy):
                hand.bridge.submit([request("two"), request("three")])
            assert hand.leases.released[MIX] == 2
            assert hand.engine.submitted == ["one"]
            (other,) = hand.bridge.submit([request("four")])
            with pytest.raises(ServerBusy):
                hand.bridge.submit([request("five")])
            hand.engine.publish([over("one"), over("four")])
            await everything(kept)
            await everything(other)
            hand.bridge.submit([request("six")])

    play(scenario)


@pytest.mark.safety("reliability 5")
@pytest.mark.parametrize("error", [None, RuntimeError("the thread broke")])
def test_whatever_ends_the_thread_every_request_is_answered(error: Exception | None) -> None:
    async def scenario() -> None:
        async with by_hand() as hand:
            streams = hand.bridge.submit([request("one"), request("two")])
            hand.engine.publish([over("one")])
            hand.engine.error = error
            hand.engine.stop()
            one, two = [await everything(stream) for stream in streams]
            assert one == [over("one")]
            (end,) = two
            assert isinstance(end, Finished)
            assert (end.reason, end.failure) == (FinishReason.FAILED, DEAD)
            assert hand.leases.released[MIX] == 2
            assert not hand.bridge.alive
            with pytest.raises(EngineDead):
                hand.bridge.submit([request("three")])
            assert hand.leases.released[MIX] == 3

    play(scenario)


def test_while_draining_what_runs_may_finish_and_nothing_new_is_taken() -> None:
    async def scenario() -> None:
        async with by_hand() as hand:
            (stream,) = hand.bridge.submit([request("one")])
            assert hand.bridge.drain() == 1
            with pytest.raises(ServerDraining):
                hand.bridge.submit([request("two")])
            assert hand.leases.released[MIX] == 1
            idle = asyncio.create_task(hand.bridge.idle())
            hand.engine.publish([said("one")])
            assert await anext(stream) == said("one")
            assert not idle.done()
            hand.engine.publish([over("one")])
            await idle
            assert await everything(stream) == [over("one")]
            assert hand.bridge.drain() == 0

    play(scenario)


def test_a_step_that_does_not_end_costs_no_client_its_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "STOP_TIMEOUT_S", 0.0)

    async def scenario() -> None:
        async with by_hand() as hand:
            (stream,) = hand.bridge.submit([request("one")])
            stop, hand.engine.stop = hand.engine.stop, lambda: None  # type: ignore[method-assign]
            await hand.bridge.stop()
            assert await everything(stream) == [Finished("one", FinishReason.ABORTED, 0)]
            hand.engine.publish([said("one"), over("one")])
            assert hand.leases.released[MIX] == 1
            stop()

    play(scenario)


def test_an_event_that_cannot_be_counted_is_delivered_with_all_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(request: Request, event: Event) -> None:
        raise ValueError("no such label")

    async def scenario() -> None:
        async with by_hand() as hand:
            hand.bridge._observe = broken
            one, two = hand.bridge.submit([request("one"), request("two")])
            hand.engine.publish([said("one"), over("one"), over("two")])
            assert await everything(one) == [said("one"), over("one")]
            assert await everything(two) == [over("two")]
            assert hand.leases.released[MIX] == 2

    play(scenario)
    assert [each.getMessage() for each in caplog.records] == [
        f"an event of request {name} could not be counted" for name in ("one", "one", "two")
    ]


@pytest.mark.safety("reliability 2")
def test_a_remembered_failure_refuses_at_once() -> None:
    async def scenario() -> None:
        async with by_hand() as hand:
            assert hand.bridge.alive
            hand.engine.failure = DEAD
            assert not hand.bridge.alive
            with pytest.raises(EngineDead):
                hand.bridge.submit([request("one")])
            assert hand.engine.submitted == []

    play(scenario)


# The real engine behind the real bridge.


def break_the_model(server: Server) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("the device is gone")

    server.engine.runner.execute = broken  # type: ignore[method-assign, assignment]


@pytest.mark.safety("reliability 2")
def test_the_death_of_the_engine_is_503_now_and_later(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"model": "formal", "prompt": ["One", "Two"], "max_tokens": 4}'

    async def scenario() -> None:
        async with server.app.router.lifespan_context(server.app):
            break_the_model(server)
            for _ in range(2):
                exchange = await Exchange("/v1/completions", body).run(server.app)
                assert exchange.status == 503
                assert b"engine_dead" in exchange.body
                assert b"device" not in exchange.body
            assert not server.bridge.alive
            native = await Exchange("/generate", b'{"inputs": "Hello"}').run(server.app)
            assert native.status == 503
            assert set(server.leases().values()) == {0}

    play(scenario)
    assert any("the engine died" in record.getMessage() for record in caplog.records)


def test_stopping_ends_what_runs_and_joins_the_thread(server: Server) -> None:
    body = b'{"model": "formal", "prompt": "Hello", "max_tokens": 200, "ignore_eos": true, "stream": true}'
    before = threading.enumerate()  # another test's server may run in this process, too

    async def scenario() -> None:
        async with server.app.router.lifespan_context(server.app):
            exchange = Exchange("/v1/completions", body)
            answering = asyncio.create_task(exchange.run(server.app))
            await exchange.said.wait()
        await answering
        assert exchange.body.count(b'"code":"aborted"') == 1
        assert b"[DONE]" not in exchange.body
        assert set(server.leases().values()) == {0}
        started = [thread.name for thread in threading.enumerate() if thread not in before]
        assert "engine" not in started

    play(scenario)


@pytest.mark.safety("reliability 3")
def test_a_tenant_has_its_own_bound_and_the_operator_only_that_of_all() -> None:
    async def scenario() -> None:
        async with by_hand(max_open=6, max_tenant=2) as hand:
            held = hand.bridge.submit([request("a1", "acme"), request("a2", "acme")])
            with pytest.raises(TenantBusy, match="may have 2 requests"):
                hand.bridge.submit([request("a3", "acme")])
            assert hand.leases.released[MIX] == 1, "the lease of the one that was refused"
            held += hand.bridge.submit([request("b1", "beta")])
            held += hand.bridge.submit([request("o1"), request("o2"), request("o3")])
            with pytest.raises(ServerBusy):
                hand.bridge.submit([request("b2", "beta")])
            hand.engine.publish([over("a1"), over("o1")])
            await everything(held[0])
            held += hand.bridge.submit([request("a4", "acme")])
            with pytest.raises(TenantBusy):
                hand.bridge.submit([request("a5", "acme")])
            with pytest.raises(RequestRefused, match="a tenant may have 2 requests"):
                hand.bridge.submit([request(f"c{each}", "acme") for each in range(3)])

    play(scenario)


@pytest.mark.safety("reliability 3")
def test_the_tokens_of_prompts_are_bounded_for_all_and_for_a_tenant() -> None:
    async def scenario() -> None:
        async with by_hand(max_open=9, max_tokens=100, max_tenant_tokens=60) as hand:
            (own,) = hand.bridge.submit([request("a1", "acme", tokens=50)])
            with pytest.raises(TenantBusy, match="60 tokens"):
                hand.bridge.submit([request("a2", "acme", tokens=11)])
            hand.bridge.submit([request("a3", "acme", tokens=10)])
            with pytest.raises(RequestRefused, match="2 answers to prompts of 62 tokens"):
                hand.bridge.submit([request("a4", "acme", tokens=31), request("a5", "acme", tokens=31)])
            hand.bridge.submit([request("b1", "beta", tokens=30)])
            with pytest.raises(ServerBusy, match="100 tokens"):
                hand.bridge.submit([request("o1", tokens=11)])
            with pytest.raises(RequestRefused, match="the server may have"):
                hand.bridge.submit([request("o2", tokens=101)])
            hand.engine.publish([over("a1")])
            await everything(own)
            hand.bridge.submit([request("o3", tokens=60)])
            assert hand.engine.submitted == ["a1", "a3", "b1", "o3"]

    play(scenario)
