"""The engine without a server: requests in, answers out, on the caller's own thread."""

from __future__ import annotations

from collections.abc import Iterable

from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Event, Finished, Request, Token


def complete(engine: Engine, requests: Iterable[Request]) -> dict[str, tuple[list[Token], Finished]]:
    """Run requests to their end; for evaluation and benchmarks. See `run`."""
    return {
        request_id: ([each for each in events if isinstance(each, Token)], ended(events))
        for request_id, events in run(engine, requests).items()
    }


def run(engine: Engine, requests: Iterable[Request]) -> dict[str, list[Event]]:
    """Every event of each request, in order; batched as traffic is.

    Afterwards every slot is free. A request whose adapter is not resident joins when it is loaded.
    """
    heard: dict[str, list[Event]] = {}
    for request in requests:
        heard[request.id] = []
        engine.submit(request)
    running = len(heard)
    while running:
        for event in engine.step():
            heard[event.request_id].append(event)
            running -= isinstance(event, Finished)
    while not engine.idle:
        engine.step()
    return heard


def ended(events: Iterable[Event]) -> Finished:
    """The terminal event of a request that has ended."""
    return next(each for each in events if isinstance(each, Finished))
