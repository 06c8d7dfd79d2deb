"""Several replicas' metrics as one text: nothing is lost, nothing added but the replica's name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lorikeet_server.cluster.exposition import merged

Sample = tuple[str, frozenset[tuple[str, str]], float]


def text(number: int) -> bytes:
    registry = CollectorRegistry()
    Counter("asked", "How often.", ["route"], registry=registry).labels('a "route"\\\n').inc(number)
    Gauge("held", "How many.", registry=registry).set(-number)
    Histogram("took", "How long.", registry=registry, buckets=(1, 2)).observe(number)
    return generate_latest(registry)


def samples(body: bytes) -> dict[str, tuple[str, str, set[Sample]]]:
    return {
        family.name: (
            family.type,
            family.documentation,
            {(each.name, frozenset(each.labels.items()), each.value) for each in family.samples},
        )
        for family in text_string_to_metric_families(body.decode())
    }


def test_every_sample_has_its_replica() -> None:
    texts = {"one": text(1), "two": text(2)}
    found = samples(merged(texts))
    for name, (kind, words, values) in samples(text(1)).items():
        expected = {
            (sample, labels | {("replica", replica)}, value)
            for replica, body in texts.items()
            for sample, labels, value in samples(body)[name][2]
        }
        assert found[name] == (kind, words, expected)
        assert len(values) * 2 == len(expected)
    assert merged(texts).count(b"# TYPE asked_total ") == 1


def test_of_nobody_there_is_nothing() -> None:
    assert merged({}) == b""
