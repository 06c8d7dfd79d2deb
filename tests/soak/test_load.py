"""Five hundred streams over fifty adapters for minutes; somebody asks all the while whether the server lives."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from tests.load import Plan
from tests.server.test_load import loaded_server, stay_calm, stopped_midway

pytestmark = [pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(1800)]
SECONDS = 180.0
P99_S = 0.1
WORST_S = 1.0
DRAIN_S = 10
END_S = 5.0  # for the last step, the last bytes and the process itself


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


def test_told_to_stop_with_five_hundred_connections_it_cuts_nobody_off(tmp_path: Path) -> None:
    with loaded_server(tmp_path, 50, "--drain-seconds", str(DRAIN_S), "--max-slots", "32") as (
        process,
        names,
    ):
        plan = Plan(["demo", *names], connections=500, tokens=400, slow=1, whole=3)
        code, tally, seconds = asyncio.run(stopped_midway(process, plan))
    print(f"\nstopped in {seconds:.1f} s: {tally.complete} complete, {tally.ended} ended with an error event")
    assert code == 0
    assert not tally.faults, tally.faults[:5]
    assert tally.complete + tally.ended > 0
    assert seconds < DRAIN_S + END_S
    assert "Traceback" not in process.log
