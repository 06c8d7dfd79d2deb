"""The arithmetic of docs/scaling.md: `python -m tests.placement` prints its tables, `tests/test_scaling.py` compares.

On paper only. Adapter i of N is asked for with probability i^-s / H (Zipf), every request is alike, and M replicas
are equally busy. Nothing here is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

SKEW = 1.0
RANK = 16
ROWS = 512  # --rank-rows by default
READ_S, INSERT_S, MEASURED = 0.030, 0.006, 35_200_000  # docs/performance.md: 35 MB in 30 ms and in 6 ms
RECORD, ALIAS_S = (
    985,
    0.0031,
)  # bytes of a record as JSON, seconds of an alias's change: docs/scaling.md says how
SCRAPE = 16_880  # bytes of /metrics/vllm with 64 adapters named
# Assumptions.
NETWORK = 1.25e9  # bytes a second: 10 Gbit/s
HOST = 32_000_000_000  # --host-adapter-bytes: an eighth of 256 GB
SCRAPES_A_SECOND = 2  # deploy/gateway/picker.yml
CHANGES_A_SECOND = 10


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder whose seven linear modules of each layer are adapted."""

    hidden: int
    keys: int  # outputs of k and of v
    inner: int
    layers: int
    bytes: int  # of a number in the rows

    def row_bytes(self) -> int:
        """One rank row: of each module its inputs and its outputs."""
        attention = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.keys)
        mlp = 3 * (self.hidden + self.inner)
        return self.layers * (attention + mlp) * self.bytes


# Of the models' config.json. On a CPU without fast bf16 rows are fp32, elsewhere bf16.
MODELS = {
    "Qwen2.5-0.5B": Shape(896, 128, 4864, 24, 4),
    "Llama-3.1-8B": Shape(4096, 1024, 14336, 32, 2),
    "Llama-3.1-70B": Shape(8192, 1024, 28672, 80, 2),
}


def zipf(names: int, skew: float = SKEW) -> list[float]:
    weights = [rank**-skew for rank in range(1, names + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def copies(share: float, replicas: int, least: int = 1) -> int:
    """How many replicas hold an adapter: enough that its requests fill none of them. `least` for when one fails."""
    return min(replicas, max(least, math.ceil(share * replicas)))


def held(shares: Sequence[float], replicas: int, places: int, least: int = 1) -> int:
    """How many of the most popular adapters find all their copies in `places` for each replica."""
    total = accumulate(copies(share, replicas, least) for share in shares)
    return sum(1 for used in total if used <= replicas * places)


def affinity_hits(shares: Sequence[float], replicas: int, places: int, least: int = 1) -> float:
    """The share of requests that find their adapter where they are sent."""
    return sum(shares[: held(shares, replicas, places, least)])


def scattered_hits(shares: Sequence[float], places: int) -> float:
    """The same if requests go anywhere: each replica sees all names and keeps the last used (Che's approximation).

    An adapter is there if it was asked for within the time T in which `places` different ones are.
    """
    if places >= len(shares):
        return 1.0
    low, high = 0.0, 1.0
    while _filled(shares, high) < places:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _filled(shares, middle) < places else (low, middle)
    return sum(share * -math.expm1(-share * high) for share in shares)


def _filled(shares: Sequence[float], time: float) -> float:
    return sum(-math.expm1(-share * time) for share in shares)


def replicas_for(shares: Sequence[float], wanted: float, places: int, least: int = 1) -> int:
    """The fewest replicas, of the powers of two, whose hits by affinity are as wanted."""
    replicas = least
    while affinity_hits(shares, replicas, places, least) < wanted:
        replicas *= 2
    return replicas


def table_of_bytes() -> Iterator[str]:
    yield "| shape | one rank row | an adapter of rank 16 | of rank 64 | 512 rows |"
    yield "|---|---:|---:|---:|---:|"
    for name, shape in MODELS.items():
        row = shape.row_bytes()
        sizes = [size(row), size(row * RANK), size(row * 64), size(row * ROWS)]
        yield f"| {name}, {8 * shape.bytes} bits | " + " | ".join(sizes) + " |"


def table_of_hits() -> Iterator[str]:
    yield "| adapters | replicas | sent anywhere | by affinity | two copies at least | in memory, two copies |"
    yield "|---:|---:|---:|---:|---:|---:|"
    places, kept = ROWS // RANK, HOST // (MODELS["Llama-3.1-8B"].row_bytes() * RANK)
    for names in (1_000, 10_000, 100_000):
        shares = zipf(names)
        anywhere = percent(scattered_hits(shares, places))
        for replicas in (1, 8, 64, 512, 4096):
            least = min(replicas, 2)
            hits = [
                affinity_hits(shares, replicas, places),
                affinity_hits(shares, replicas, places, least),
                affinity_hits(shares, replicas, kept, least),
            ]
            yield f"| {names:,} | {replicas:,} | {anywhere} | " + " | ".join(map(percent, hits)) + " |"


def table_of_copies() -> Iterator[str]:
    ranks = (1, 2, 10, 100, 1_000)
    yield "| replicas | " + " | ".join(f"adapter {rank:,}" for rank in ranks) + " | all 10,000, in copies |"
    yield "|---:|" + "---:|" * (len(ranks) + 1)
    shares = zipf(10_000)
    for replicas in (8, 64, 512, 4096):
        each = [copies(shares[rank - 1], replicas, 2) for rank in ranks]
        total = sum(copies(share, replicas, 2) for share in shares)
        yield f"| {replicas:,} | " + " | ".join(f"{one:,}" for one in [*each, total]) + " |"


def table_of_replicas() -> Iterator[str]:
    yield "| adapters | 50 % | 90 % | 99 % | 100 % |"
    yield "|---:|---:|---:|---:|---:|"
    for names in (1_000, 10_000, 100_000):
        shares = zipf(names)
        needed = [replicas_for(shares, wanted, ROWS // RANK, 2) for wanted in (0.5, 0.9, 0.99, 1.0 - 1e-9)]
        yield f"| {names:,} | " + " | ".join(f"{each:,}" for each in needed) + " |"


def table_of_loads() -> Iterator[str]:
    yield "| shape | insert | read from files and insert | fetch over 10 Gbit/s, read and insert |"
    yield "|---|---:|---:|---:|"
    for name, shape in MODELS.items():
        count = shape.row_bytes() * RANK
        insert = count / MEASURED * INSERT_S
        read = insert + count / MEASURED * READ_S
        times = (insert, read, read + count / NETWORK)
        yield f"| {name} | " + " | ".join(f"{1e3 * each:,.0f} ms" for each in times) + " |"


def table_of_fans() -> Iterator[str]:
    rate = round(1 / ALIAS_S, -1)
    yield (
        f"| replicas | records, {CHANGES_A_SECOND} changes a second | records, {rate:.0f} a second "
        "| one adapter to two | to all | scrapes a second | read by the picker |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    adapter = MODELS["Llama-3.1-8B"].row_bytes() * RANK
    for replicas in (8, 64, 512, 4096):
        records = [size(int(each * RECORD * replicas)) + "/s" for each in (CHANGES_A_SECOND, rate)]
        times = [f"{each * adapter / NETWORK:,.1f} s" for each in (2, replicas)]
        scrapes = SCRAPES_A_SECOND * replicas
        told = [*records, *times, f"{scrapes:,}", size(scrapes * SCRAPE) + "/s"]
        yield f"| {replicas:,} | " + " | ".join(told) + " |"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def size(count: int) -> str:
    for unit, many in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= many:
            return f"{count / many:.3g} {unit}" if count < 1000 * many else f"{count / many:,.0f} {unit}"
    return f"{count} B"


TABLES = (
    table_of_bytes,
    table_of_hits,
    table_of_copies,
    table_of_replicas,
    table_of_loads,
    table_of_fans,
)


if __name__ == "__main__":
    for table in TABLES:
        print(*table(), "", sep="\n")
