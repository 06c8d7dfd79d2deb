"""Five hundred streams over fifty adapters for minutes; somebody asks all the while whether the server lives."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.load import Plan
from tests.server.test_load import loaded_server, stay_calm

pytestmark = [pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(1800)]
SECONDS = 180.0
P99_S = 0.1
WORST_S = 1.0


@pytest.mark.parametrize("unruly", [0, 2], ids=["all read", "some leave, some are slow"])
def test_five_hundred_streams_over_fifty_adapters(tmp_path: Path, unruly: int) -> None:
    with loaded_server(tmp_path, 50, "--max-open-requests", "400", "--max-slots", "32") as (process, names):
        plan = Plan(["demo", *names], connections=500, tokens=48, leaving=unruly, slow=unruly)
        tally, taken = stay_calm(process, plan, SECONDS)
    taken.sort()
    p99 = taken[math.ceil(len(taken) * 0.99) - 1]
    print(
        f"\n{tally.complete} complete, {tally.left} left, {tally.turned_away} turned away, "
        f"{tally.pieces / SECONDS:.0f} pieces/s; live: {len(taken)} asked, "
        f"p50 {taken[len(taken) // 2] * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, worst {taken[-1] * 1e3:.0f} ms"
    )
    assert p99 <= P99_S
    assert taken[-1] <= WORST_S
