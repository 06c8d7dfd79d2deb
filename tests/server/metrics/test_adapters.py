"""Counters by adapter: bounded, complete, gone when the adapter is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lorikeet_server.metrics.adapters import MOST, OTHER, PRIVATE, AdapterCounts
from tests.server.world import Server, client_of, post


@dataclass
class Known:
    """Generations and names are one here."""

    names: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)

    def is_private(self, generation: str) -> bool:
        return generation in self.private

    def name_of(self, generation: str) -> str | None:
        return generation if generation in self.names else None

    def is_name(self, name: str) -> bool:
        return name in self.names


@pytest.fixture
def known() -> Known:
    return Known({f"adapter-{number}" for number in range(10_000)})


def read(counts: AdapterCounts) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(counts)
    return dict(samples(generate_latest(registry).decode()))


def samples(text: str) -> Iterator[tuple[tuple[str, ...], float]]:
    for family in text_string_to_metric_families(text):
        if family.name.startswith("lorikeet_adapter_") and family.type == "counter":
            for each in family.samples:
                yield (each.name.removeprefix("lorikeet_adapter_"), *each.labels.values()), each.value


@pytest.mark.safety("metrics 3")
def test_ten_thousand_adapters_are_fifty_series_and_the_sum_is_what_was_served(known: Known) -> None:
    counts = AdapterCounts(known)
    for number in range(10_000):
        counts.count((f"adapter-{number}",), 3, 2)
    begun = time.perf_counter()
    found = read(counts)
    took = time.perf_counter() - begun
    requests = {key[1]: value for key, value in found.items() if key[0] == "requests_total"}
    assert len(requests) == MOST + len({OTHER, PRIVATE})
    assert sum(requests.values()) == 10_000
    assert requests[OTHER] == 10_000 - MOST
    assert requests["adapter-9999"] == 1
    assert sum(value for key, value in found.items() if key[-1] == "prompt") == 30_000
    assert sum(value for key, value in found.items() if key[-1] == "generated") == 20_000
    assert took < 0.5, "the bound is 50 ms; the rest is for a busy machine"


def test_the_adapters_used_last_have_their_own_series(known: Known) -> None:
    counts = AdapterCounts(known, most=2)
    for name in ("adapter-1", "adapter-2", "adapter-1", "adapter-3"):
        counts.count((name,), 1, 1)
    found = read(counts)
    assert {key[1]: value for key, value in found.items() if key[0] == "requests_total"} == {
        OTHER: 1,
        PRIVATE: 0,
        "adapter-1": 2,
        "adapter-3": 1,
    }


@pytest.mark.safety("metrics 3")
def test_a_name_that_goes_takes_its_series_with_it(known: Known) -> None:
    counts = AdapterCounts(known)
    counts.count(("adapter-1",), 5, 7)
    known.names.remove("adapter-1")
    assert {key: value for key, value in read(counts).items() if PRIVATE not in key} == {
        ("requests_total", OTHER): 1,
        ("tokens_total", OTHER, "prompt"): 5,
        ("tokens_total", OTHER, "generated"): 7,
    }
    counts.count(("adapter-1",), 1, 1)  # a request that ran on
    assert ("requests_total", "adapter-1") not in read(counts)


def test_a_blend_counts_for_each_of_its_adapters_once(known: Known) -> None:
    counts = AdapterCounts(known)
    counts.count(("adapter-1", "adapter-2", "merge-1", "merge-2"), 1, 1)
    counts.count((), 1, 1)  # the base alone
    found = {key[1]: value for key, value in read(counts).items() if key[0] == "requests_total"}
    assert found == {OTHER: 1, PRIVATE: 0, "adapter-1": 1, "adapter-2": 1}


def test_what_tenants_call_their_own_is_counted_together_and_not_named(known: Known) -> None:
    known.private = {"acme-1", "acme-2"}
    counts = AdapterCounts(known)
    for generations in (("acme-1",), ("acme-2", "adapter-1"), ("acme-1", "acme-2"), ("gone",)):
        counts.count(generations, 2, 3)
    found = {key[1:]: value for key, value in read(counts).items() if key[0] == "tokens_total"}
    assert {key[0] for key in found} == {OTHER, PRIVATE, "adapter-1"}
    assert [found[name, "prompt"] for name in (OTHER, PRIVATE, "adapter-1")] == [2, 6, 2]


@pytest.mark.safety("metrics 3")
def test_hostile_names_come_back_from_the_text(known: Known) -> None:
    names = ['a"b', "a\\b", "a\nb", "a,b={}"]
    known.names.update(names)
    counts = AdapterCounts(known)
    for name in names:
        counts.count((name,), 1, 1)
    assert {key[1] for key in read(counts)} == {OTHER, PRIVATE, *names}


def test_what_a_server_served_stands_under_its_adapters_until_they_are_deleted(server: Server) -> None:
    with client_of(server.app) as client:
        body = {"prompt": "Hello", "max_tokens": 3, "ignore_eos": True}
        for model in ("formal", "formal:0.5+friendly:0.5", "tiny"):
            assert post(client, "/v1/completions", {**body, "model": model}).status_code == 200
        before = dict(samples(client.get("/metrics").text))
        assert client.delete("/v1/adapters/formal").status_code == 200
        after = dict(samples(client.get("/metrics").text))
    assert before["requests_total", "formal"] == 2
    assert before["tokens_total", "formal", "prompt"] == 10
    assert before["tokens_total", "formal", "generated"] == 6
    assert before["requests_total", "friendly"] == 1
    assert before["requests_total", OTHER] == 0
    assert not any("formal" in key for key in after)
    assert after["requests_total", OTHER] == 2
