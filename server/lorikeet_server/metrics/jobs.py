"""Fine-tuning jobs by state, and what their workers have done since the server started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Jobs(Protocol):
    """Where the figures come from (`Office`)."""

    def counts(self) -> Mapping[str, int]:
        """Jobs by state."""
        ...

    def totals(self) -> tuple[int, int, int]:
        """Steps, checkpoints, and workers lost."""
        ...

    @property
    def is_broken(self) -> bool:
        """Whether training has ended by an error."""
        ...


class NoJobs:
    """A server without an office."""

    def counts(self) -> Mapping[str, int]:
        return {}

    def totals(self) -> tuple[int, int, int]:
        return (0, 0, 0)

    is_broken = False


class JobFacts(Collector):
    """Read when Prometheus scrapes."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "lorikeet_training_jobs", "Fine-tuning jobs in the data folder, by state.", labels=["state"]
        )
        for state, count in self._jobs.counts().items():
            states.add_metric([state], count)
        yield states
        yield GaugeMetricFamily(
            "lorikeet_training_stopped",
            "1 when an error has ended training: jobs wait until the server is restarted.",
            value=float(self._jobs.is_broken),
        )
        steps, checkpoints, lost = self._jobs.totals()
        yield CounterMetricFamily(
            "lorikeet_training_steps", "Optimiser steps of fine-tuning jobs.", value=steps
        )
        yield CounterMetricFamily(
            "lorikeet_training_checkpoints", "Checkpoints of fine-tuning jobs.", value=checkpoints
        )
        yield CounterMetricFamily(
            "lorikeet_training_workers_lost", "Training processes that ended without a last word.", value=lost
        )
