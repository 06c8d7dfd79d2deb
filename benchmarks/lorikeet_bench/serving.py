"""Driving a server over HTTP, closed loop or open loop, and what that measures.

In a closed loop a fixed number of requests is always under way, so a slow server is asked less; in
an open loop requests come when they come, so a server that cannot keep up shows it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from lorikeet_bench.client import Client, Exchange
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.workload import Ask, Workload

WARM_UP = 2  # requests a model before anything is counted
OPEN_LOOP_CONNECTIONS = 4096


@dataclass(frozen=True, slots=True)
class Session:
    """`seconds` from the first request sent to the last one ended; `peak` requests were under way at once."""

    exchanges: tuple[Exchange, ...]
    seconds: float
    peak: int


async def drive(
    url: str, workload: Workload, key: str = "", *, advance: Callable[[Exchange], None] = lambda each: None
) -> Session:
    """Warm every model up, then send the workload. Raises PlanRefused when the server is not there."""
    connections = workload.concurrency if workload.rate is None else OPEN_LOOP_CONNECTIONS
    client = Client(url, key, connections=connections or 1)
    try:
        await _check_models(client, url, workload.models)
        asks = workload.asks()
        await _warm_up(client, workload, asks)
        return await _send(client, workload, asks, advance)
    finally:
        await client.close()


async def _check_models(client: Client, url: str, wanted: Sequence[str]) -> None:
    try:
        there = await client.models()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise PlanRefused(f"no OpenAI-compatible server answers at {url}: {error}") from error
    # A blend is no entry of its own, but its parts are; other servers may serve what they do not list.
    missing = [name for name in wanted if name not in there and not set(there) & {*_parts(name)}]
    if missing:
        raise PlanRefused(f"{url} does not list the model {missing[0]}; it lists {', '.join(there[:20])}")


def _parts(name: str) -> list[str]:
    return [part.rpartition(":")[0] or part for part in name.split("+")]


async def _warm_up(client: Client, workload: Workload, asks: Sequence[Ask]) -> None:
    shortest = asks[0]
    for model in workload.models:
        for _ in range(WARM_UP):
            done = await client.complete(Ask(0.0, model, shortest.prompt, 2))
            if done.error:
                raise PlanRefused(f"the model {model} does not answer: {done.error}")


async def _send(
    client: Client, workload: Workload, asks: Sequence[Ask], advance: Callable[[Exchange], None]
) -> Session:
    under_way, peak = 0, 0
    gate = asyncio.Semaphore(workload.concurrency or len(asks)) if workload.rate is None else None
    started = time.perf_counter()

    async def one(ask: Ask) -> Exchange:
        nonlocal under_way, peak
        if gate is None:
            await asyncio.sleep(max(started + ask.at - time.perf_counter(), 0))
        else:
            await gate.acquire()
        under_way += 1
        peak = max(peak, under_way)
        try:
            done = await client.complete(ask)
        finally:
            under_way -= 1
            if gate is not None:
                gate.release()
        advance(done)
        return done

    exchanges = await asyncio.gather(*(one(ask) for ask in asks))
    first, last = min(each.sent for each in exchanges), max(each.ended for each in exchanges)
    return Session(tuple(exchanges), last - first, peak)
