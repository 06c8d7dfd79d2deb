"""How long reading an adapter takes, and whether it worked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import Histogram

from lorikeet_server.metrics import ladders

T = TypeVar("T")
READ, FAILED = "read", "failed"


class LoadTimes:
    """Made before the engine, whose loader it times; `Metrics` registers its histogram."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.histogram = Histogram(
            "lorikeet_adapter_load_seconds",
            "Reading and checking an adapter's weights, by result.",
            ["result"],
            buckets=ladders.LOAD,
            registry=None,
        )
        for result in (READ, FAILED):
            self.histogram.labels(result)
        self._clock = clock

    def timed(self, fetch: Callable[[str], T]) -> Callable[[str], T]:
        """The same reader, on whatever thread it runs; what it raises passes through."""

        def timed_fetch(generation: str) -> T:
            started, result = self._clock(), FAILED
            try:
                weights = fetch(generation)
                result = READ
            finally:
                self.histogram.labels(result).observe(self._clock() - started)
            return weights

        return timed_fetch
