"""docs/scaling.md has the tables that the arithmetic gives, and the arithmetic agrees with what it stands for."""

from __future__ import annotations

import random
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorikeet_server.engine.config import EngineConfig
from tests import placement
from tests.placement import MODELS, RANK, ROWS, affinity_hits, copies, held, scattered_hits, zipf

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "scaling.md").read_text()


@pytest.mark.parametrize("table", placement.TABLES, ids=lambda table: table.__name__)
def test_the_page_has_the_table(table: Callable[[], Iterator[str]]) -> None:
    assert "\n".join(table()) + "\n" in PAGE


def test_every_other_figure_of_the_page_that_the_arithmetic_has_is_its() -> None:
    kept = placement.HOST // (MODELS["Llama-3.1-8B"].row_bytes() * RANK)
    assert f"{kept} adapters" in PAGE
    assert f"{ROWS // RANK} adapters on the device" in PAGE
    assert EngineConfig().rank_rows == ROWS
    assert f"some {round(1 / placement.ALIAS_S, -1):.0f} changes" in PAGE
    assert re.search(r"eight adapters of that shape are 281 MB", PAGE)
    assert round(8 * RANK * MODELS["Qwen2.5-0.5B"].row_bytes() / 1e6, -1) == 280


def test_copies_carry_their_adapters_share_and_fit() -> None:
    shares, replicas, places = zipf(1_000), 16, 8
    for share in shares:
        count = copies(share, replicas, 2)
        assert 2 <= count <= replicas
        assert share * replicas / count <= 1 or count == replicas
    kept = held(shares, replicas, places, 2)
    assert sum(copies(share, replicas, 2) for share in shares[:kept]) <= replicas * places
    assert sum(copies(share, replicas, 2) for share in shares[: kept + 1]) > replicas * places
    assert affinity_hits(shares, replicas, places, 2) == sum(shares[:kept])


def test_what_is_used_last_hits_as_often_as_the_approximation_says() -> None:
    """A cache of the last used, played: the same to within two in a hundred."""
    shares, places = zipf(1_000), 32
    rolls, cache, hits = random.Random(0), OrderedDict[int, None](), 0
    asked = rolls.choices(range(len(shares)), shares, k=60_000)
    for at, name in enumerate(asked):
        hits += name in cache and at >= 10_000
        cache[name] = None
        cache.move_to_end(name)
        if len(cache) > places:
            cache.popitem(last=False)
    assert hits / 50_000 == pytest.approx(scattered_hits(shares, places), abs=0.02)


def test_where_everything_fits_everything_hits() -> None:
    shares = zipf(30)
    assert scattered_hits(shares, 32) == 1.0
    assert affinity_hits(shares, 1, 32) == pytest.approx(1.0)
