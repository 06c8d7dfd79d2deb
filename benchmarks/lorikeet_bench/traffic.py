"""Requests to an engine without HTTP, on the caller's thread, and when each of their tokens came."""

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


class Traffic:
    """What is under way in an engine, and what has passed through it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: dict[str, tuple[Request, float, list[float]]] = {}
        self.done: list[Passage] = []

    @property
    def under_way(self) -> int:
        return len(self._open)

    def send(self, request: Request) -> None:
        self._open[request.id] = (request, time.perf_counter(), [])
        self._engine.submit(request)

    def step(self) -> None:
        """Raises PlanRefused when a request fails."""
        for event in self._engine.step():
            if isinstance(event, Token):
                self._open[event.request_id][2].append(time.perf_counter())
            elif isinstance(event, Finished):
                if event.failure is not None:
                    raise PlanRefused(f"a request failed: {event.failure.message}")
                request, sent, tokens = self._open.pop(event.request_id)
                self.done.append(Passage(request, sent, tuple(tokens), event))

    def until_each_has(self, tokens: int) -> None:
        """Go on until every request under way has so many."""
        while any(len(came) < tokens for _, _, came in self._open.values()):
            self.step()

    def finish(self) -> list[Passage]:
        """Go on until nothing is under way and every slot is free."""
        while self._open or not self._engine.idle:
            self.step()
        return self.done


def closed_loop(engine: Engine, requests: Iterable[Request], at_once: int) -> tuple[list[Passage], float]:
    """So many requests are always under way. Every request's passage and the seconds they took together.

    Raises PlanRefused when one fails.
    """
    waiting, traffic = deque(requests), Traffic(engine)
    started = time.perf_counter()
    while waiting or traffic.under_way:
        while waiting and traffic.under_way < at_once:
            traffic.send(waiting.popleft())
        traffic.step()
    seconds = time.perf_counter() - started
    return traffic.finish(), seconds
