"""Many streams over many adapters: no error but to be turned away, nothing cut off, memory flat. The long form is a soak."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from lorikeet_adapters.base_model import outline
from tests.crowd import demo_server, make_adapter, metric, register
from tests.load import Crowd, Plan, Tally, run_crowd
from tests.server.process import ServerProcess

MEMORY_SLACK = 48 << 20  # allocators keep some of what was freed
SETTLED_S = 30.0


@contextmanager
def loaded_server(folder: Path, adapters: int, *words: str) -> Iterator[tuple[ServerProcess, list[str]]]:
    """The demo base with so many adapters beside it, which do not all fit at once."""
    shapes = outline("demo")
    names = [f"a{number:02}" for number in range(adapters)]
    with closing(demo_server(folder, "--rank-rows", "128", *words)) as process:
        for seed, name in enumerate(names):
            make_adapter(folder / "adapters" / name, shapes, seed)
            assert register(process.url, name, name).status_code == 201
        yield process, names


@contextmanager
def probed(url: str) -> Iterator[list[float]]:
    """Seconds that each answer took meanwhile; filled at the end."""
    words = [sys.executable, "-m", "tests.prober", url]
    prober = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    taken: list[float] = []
    try:
        yield taken
        said, _ = prober.communicate(timeout=60)
        taken += json.loads(said)
    finally:
        prober.kill()
        prober.wait()


def memory(process: ServerProcess) -> int:
    return psutil.Process(process.pid).memory_info().rss


def assert_nothing_is_left(process: ServerProcess) -> None:
    """No slot, no request and no lease is held by anybody."""
    held = ("lorikeet_requests_running", "lorikeet_requests_waiting")
    deadline = time.monotonic() + SETTLED_S
    while left := {name: value for name in held if (value := metric(process.url, name))}:
        assert time.monotonic() < deadline, left
    records = httpx.get(f"{process.url}/v1/adapters", params={"limit": 100}).json()["data"]
    assert {each["id"]: each["leases"] for each in records if each["leases"]} == {}


def stay_calm(process: ServerProcess, plan: Plan, seconds: float) -> tuple[Tally, list[float]]:
    """Load the server twice, the first time to warm it up: no fault, and what it holds does not grow."""
    warm = run_crowd(process.url, plan, seconds / 2)
    before = memory(process)
    with probed(f"{process.url}/health/live") as taken:
        tally = run_crowd(process.url, plan, seconds)
    assert not warm.faults + tally.faults, (warm.faults + tally.faults)[:5]
    assert warm.ended + tally.ended == 0
    assert tally.complete >= plan.connections // 10
    assert_nothing_is_left(process)
    assert memory(process) < before + MEMORY_SLACK
    assert min(taken) >= 0, "a probe was not answered"
    return tally, taken


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, list[str]]]:
    """Of both tests; the second one ends it."""
    words = ("--max-open-requests", "40", "--drain-seconds", "1")
    with loaded_server(tmp_path_factory.mktemp("loaded"), 10, *words) as made:
        yield made


@pytest.mark.timeout(240)
def test_sixty_streams_over_ten_adapters_disturb_nothing(loaded: tuple[ServerProcess, list[str]]) -> None:
    """Some leave half way, some read slowly, and more come than may be open."""
    process, names = loaded
    plan = Plan(["demo", *names], 60, tokens=24, leaving=2, slow=1, whole=2, pause_s=0.1)
    tally, _ = stay_calm(process, plan, 5.0)
    assert tally.left > 0
    assert tally.turned_away > 0
    assert "Traceback" not in process.log


@pytest.mark.timeout(240)
def test_told_to_stop_under_load_it_cuts_nobody_off(loaded: tuple[ServerProcess, list[str]]) -> None:
    """Every answer that was begun ends with its reason, or with an error that says so."""
    process, names = loaded
    plan = Plan(names, connections=40, tokens=200, slow=1, whole=3, pause_s=0.1)
    code, tally, _ = asyncio.run(stopped_midway(process, plan))
    assert code == 0
    assert not tally.faults, tally.faults[:5]
    assert tally.complete + tally.ended > 0
    assert "Traceback" not in process.log


async def stopped_midway(process: ServerProcess, plan: Plan) -> tuple[int, Tally, float]:
    """SIGTERM while every client has an answer on its way: the exit code, what came of all, the seconds to the end."""
    crowd = Crowd(process.url, plan)
    running = asyncio.create_task(crowd.run())
    while crowd.tally.pieces < plan.connections:
        assert not running.done()
        await asyncio.sleep(0.01)
    crowd.stop()
    told = time.monotonic()
    code = await asyncio.to_thread(process.end, signal.SIGTERM)
    took = time.monotonic() - told
    return code, await running, took
