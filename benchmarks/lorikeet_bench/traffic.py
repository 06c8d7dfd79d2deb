"""A closed loop without HTTP: so many requests are always in the engine, on the caller's thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from lorikeet_bench.plan import PlanRefused
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import Finished, Request, Token


@dataclass(frozen=True, slots=True)
class Passage:
    """One request: when it was sent and when each token came, in seconds on one clock."""

    request: Request
    sent: float
    tokens: tuple[float, ...]
    end: Finished

    @property
    def ttft(self) -> float:
        return self.tokens[0] - self.sent

    @property
    def gaps(self) -> tuple[float, ...]:
        return tuple(b - a for a, b in zip(self.tokens, self.tokens[1:], strict=False))


def closed_loop(engine: Engine, requests: Iterable[Request], at_once: int) -> tuple[list[Passage], float]:
    """Every request's passage and the seconds they took together. Raises PlanRefused when one fails."""
    waiting = deque(requests)
    open_: dict[str, tuple[Request, float, list[float]]] = {}
    done: list[Passage] = []
    started = time.perf_counter()
    while waiting or open_:
        while waiting and len(open_) < at_once:
            request = waiting.popleft()
            open_[request.id] = (request, time.perf_counter(), [])
            engine.submit(request)
        for event in engine.step():
            if isinstance(event, Token):
                open_[event.request_id][2].append(time.perf_counter())
            elif isinstance(event, Finished):
                if event.failure is not None:
                    raise PlanRefused(f"a request failed: {event.failure.message}")
                request, sent, tokens = open_.pop(event.request_id)
                done.append(Passage(request, sent, tuple(tokens), event))
    seconds = time.perf_counter() - started
    while not engine.idle:
        engine.step()
    return done, seconds
