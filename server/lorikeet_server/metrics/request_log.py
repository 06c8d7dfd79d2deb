"""What became of the requests that were to be kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class Log(Protocol):
    """Where the figures come from (`RequestLog`)."""

    def totals(self) -> tuple[int, int]:
        """Records written and dropped."""
        ...


class NoLog:
    """A server that keeps no requests."""

    def totals(self) -> tuple[int, int]:
        return (0, 0)


class LogFacts(Collector):
    """Read when Prometheus scrapes."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        written, dropped = self._log.totals()
        yield CounterMetricFamily(
            "lorikeet_request_log_written", "Answers written into the request log.", value=written
        )
        yield CounterMetricFamily(
            "lorikeet_request_log_dropped",
            "Answers missing from the request log: no room to wait, too large, or not written by the disk.",
            value=dropped,
        )
