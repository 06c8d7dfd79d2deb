"""The time that loads take, by result, on a clock of the test's own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from lorikeet_server.metrics import LoadTimes
from tests.server.world import Server, client_of, post


def fetch(generation: str) -> str:
    if generation == "broken":
        raise OSError("no such file")
    return generation.upper()


def test_a_load_is_timed_whatever_becomes_of_it() -> None:
    moments = iter([10.0, 10.25, 20.0, 23.0])
    loads = LoadTimes(lambda: next(moments))
    registry = CollectorRegistry()
    registry.register(loads.histogram)
    timed = loads.timed(fetch)
    assert timed("fine") == "FINE"
    with pytest.raises(OSError, match="no such file"):
        timed("broken")
    for result, seconds in (("read", 0.25), ("failed", 3.0)):
        labels = {"result": result}
        assert registry.get_sample_value("lorikeet_adapter_load_seconds_sum", labels) == seconds
        assert registry.get_sample_value("lorikeet_adapter_load_seconds_count", labels) == 1


def test_a_servers_loads_are_timed(server: Server) -> None:
    with client_of(server.app) as client:
        post(client, "/v1/completions", {"model": "formal", "prompt": "Hello", "max_tokens": 1})
    read = server.services.metrics.registry.get_sample_value
    assert read("lorikeet_adapter_load_seconds_count", {"result": "read"}) == 1
    assert (read("lorikeet_adapter_load_seconds_sum", {"result": "read"}) or 0) > 0
    assert read("lorikeet_adapter_load_seconds_count", {"result": "failed"}) == 0
