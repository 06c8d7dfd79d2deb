"""How far a replica's registry is behind its owner's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Following(Protocol):
    """Where the figures come from (`Follower`)."""

    @property
    def lag(self) -> float: ...

    @property
    def sequence(self) -> int: ...


class FollowerFacts(Collector):
    """Read when Prometheus scrapes."""

    def __init__(self, follower: Following) -> None:
        self._follower = follower

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "lorikeet_registry_lag_seconds",
            "Since this replica was known to serve all that the registry's owner has; up to 2 while all is well.",
            value=self._follower.lag,
        )
        yield GaugeMetricFamily(
            "lorikeet_registry_sequence",
            "The newest change of the registry that this replica serves.",
            value=self._follower.sequence,
        )
