"""Driving a server over HTTP, closed loop or open loop, and what that measures.

In a closed loop a fixed number of requests is always under way, so a slow server is asked less; in
an open loop requests come when they come, so a server that cannot keep up shows it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from lorikeet_bench.client import Client
from lorikeet_bench.exchange import Exchange, Recording
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.workload import Ask, Dialect, Workload

WARM_UP = 2  # requests a model before anything is counted
OPEN_LOOP_CONNECTIONS = 4096


@dataclass(frozen=True, slots=True)
class Session:
    """`seconds` from the first request due to the last one ended; `peak` requests were under way at once.

    `server` is what the server says of itself.
    """

    exchanges: tuple[Exchange, ...]
    seconds: float
    peak: int
    server: Mapping[str, Any] = field(default_factory=dict)


async def drive(
    url: str, workload: Workload, key: str = "", *, advance: Callable[[Recording], None] = lambda each: None
) -> Session:
    """Warm every model up, then send the workload. Raises PlanRefused when the server is not there."""
    connections = workload.concurrency if workload.rate is None else OPEN_LOOP_CONNECTIONS
    client = Client(url, key, connections=connections or 1, dialect=workload.dialect)
    try:
        await _check_models(client, url, workload)
        await _warm_up(client, workload)
        server = await client.facts()
        recordings, peak = await _send(client, workload, advance)
    finally:
        await client.close()
    # Read now, not between two requests: decoding would make the next one late.
    exchanges = tuple(each.read() for each in recordings)
    first, last = min(each.due for each in exchanges), max(each.ended for each in exchanges)
    return Session(exchanges, last - first, peak, server)


async def check(url: str, workload: Workload, key: str = "") -> None:
    """Raises PlanRefused when the server is not there or does not list what is to be asked for."""
    client = Client(url, key, connections=1)
    try:
        await _check_models(client, url, workload)
    finally:
        await client.close()


async def _check_models(client: Client, url: str, workload: Workload) -> None:
    try:
        there = await client.models()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise PlanRefused(f"no OpenAI-compatible server answers at {url}: {error}") from error
    # A blend is no entry of its own, but its parts are. Who lists nothing serves what it does not list.
    numbered = workload.dialect is Dialect.LLAMA_CPP
    wanted = [name for name in workload.models if not (numbered and name.isdecimal())]
    missing = [name for name in wanted if name not in there and not set(there) & {*_parts(name)}]
    if there and missing:
        raise PlanRefused(f"{url} does not list the model {missing[0]}; it lists {', '.join(there[:20])}")


def _parts(name: str) -> list[str]:
    return [part.rpartition(":")[0] or part for part in name.split("+")]


async def _warm_up(client: Client, workload: Workload) -> None:
    for ask in workload.warm_up(WARM_UP):
        done = (await client.complete(ask)).read()
        if done.error:
            raise PlanRefused(f"the model {ask.model} does not answer: {done.error}")


async def _send(
    client: Client, workload: Workload, advance: Callable[[Recording], None]
) -> tuple[Sequence[Recording], int]:
    """Every request in the order of the workload, and how many were under way at most."""
    asks = workload.asks()
    under_way, peak = 0, 0
    gate = asyncio.Semaphore(workload.concurrency or len(asks)) if workload.rate is None else None
    started = time.perf_counter()

    async def one(ask: Ask) -> Recording:
        nonlocal under_way, peak
        due = None if gate is not None else started + ask.at
        if due is not None:
            await asyncio.sleep(max(due - time.perf_counter(), 0))
        if gate is not None:
            await gate.acquire()
        under_way += 1
        peak = max(peak, under_way)
        try:
            done = await client.complete(ask, due)
        finally:
            under_way -= 1
            if gate is not None:
                gate.release()
        advance(done)
        return done

    return await asyncio.gather(*(one(ask) for ask in asks)), peak
