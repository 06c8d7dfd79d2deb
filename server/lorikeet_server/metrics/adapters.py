"""Counters by adapter, for as many as fit on a dashboard.

A label value is a series for ever to whoever stores it, so only the adapters used last have one of
their own. The others are counted together; so is what an adapter had when its name goes, and the sum
over the label stays what was served.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

# No name begins with an underscore.
OTHER = "_other"
PRIVATE = "_private"  # who reads metrics may not learn what tenants call their own
MOST = 50


class Names(Protocol):
    """Which adapters there are for everybody (a `View`)."""

    def name_of(self, generation: str) -> str | None: ...
    def is_private(self, generation: str) -> bool: ...
    def is_name(self, name: str) -> bool: ...


class NoNames:
    """Where there is no registry, every adapter is another."""

    def name_of(self, generation: str) -> str | None:
        return None

    def is_private(self, generation: str) -> bool:
        return False

    def is_name(self, name: str) -> bool:
        return False


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    prompt: int = 0
    generated: int = 0

    def add(self, more: _Counts) -> None:
        self.requests += more.requests
        self.prompt += more.prompt
        self.generated += more.generated


class AdapterCounts(Collector):
    """Counted on the event loop, read on a thread. An adapter of a blend counts the whole request."""

    def __init__(self, names: Names, most: int = MOST) -> None:
        self._names = names
        self._most = most
        self._counts: OrderedDict[str, _Counts] = OrderedDict()  # the one used last at the end
        self._together = {OTHER: _Counts(), PRIVATE: _Counts()}
        self._changing = threading.Lock()

    def count(self, generations: tuple[str, ...], prompt: int, generated: int) -> None:
        named = {self._label(each) for each in generations}
        with self._changing:
            for name in named:
                self._of(name).add(_Counts(1, prompt, generated))

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "lorikeet_adapter_requests",
            f"Requests that ended, by adapter: the {self._most} used last, tenants' as {PRIVATE}, the others as {OTHER}.",
            labels=["adapter"],
        )
        tokens = CounterMetricFamily(
            "lorikeet_adapter_tokens",
            "Tokens of those requests, by adapter and kind: prompt or generated.",
            labels=["adapter", "kind"],
        )
        for name, counts in self._read():
            requests.add_metric([name], counts.requests)
            tokens.add_metric([name, "prompt"], counts.prompt)
            tokens.add_metric([name, "generated"], counts.generated)
        yield requests
        yield tokens

    def _label(self, generation: str) -> str:
        together = PRIVATE if self._names.is_private(generation) else OTHER
        return self._names.name_of(generation) or together

    def _of(self, name: str) -> _Counts:
        if name in self._together:
            return self._together[name]
        counts = self._counts.setdefault(name, _Counts())
        self._counts.move_to_end(name)
        if len(self._counts) > self._most:
            self._together[OTHER].add(self._counts.popitem(last=False)[1])
        return counts

    def _read(self) -> list[tuple[str, _Counts]]:
        with self._changing:
            for name in [each for each in self._counts if not self._names.is_name(each)]:
                self._together[OTHER].add(self._counts.pop(name))
            kept = [*self._together.items(), *self._counts.items()]
            return [(name, _Counts(each.requests, each.prompt, each.generated)) for name, each in kept]
