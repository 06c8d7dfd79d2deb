"""Time that is over, memory that runs out, a step that hangs: who is told what, and that the rest goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.rank_rows.arena import Arena
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.failures import OUT_OF_MEMORY, QUEUED_TOO_LONG, TOOK_TOO_LONG
from lorikeet_server.engine.prefix_store import PrefixStore
from lorikeet_server.engine.request import FinishReason
from lorikeet_server.engine.slot_cache import SlotCache
from lorikeet_server.engine.watchdog import Pulse, Watchdog
from tests.server.engine.test_engine import World, request, rows_for
from tests.tiny import greedy, make_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("trouble") / "base", "llama")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), "fp32")


# Deadlines.


@pytest.mark.safety("reliability 3")
def test_a_request_that_is_not_begun_in_time_fails_and_the_running_one_goes_on(
    base: BaseModel, folder: Path
) -> None:
    world = World(base, folder, {}, max_slots=1)
    waits = replace(request("waits"), start_by=time.monotonic() + 0.05)
    endings = world.run(request("runs", tokens=60), waits)
    assert (endings["waits"].reason, endings["waits"].failure) == (FinishReason.FAILED, QUEUED_TOO_LONG)
    assert endings["runs"].completion_tokens == 60
    world.engine.close()


def test_a_request_that_has_begun_may_be_late_only_for_its_end(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {})
    begun = replace(request("begun", tokens=200), start_by=time.monotonic() + 0.05)
    late = replace(request("late", tokens=2000), end_by=time.monotonic() + 0.3)
    endings = world.run(begun, late)
    assert endings["begun"].reason is FinishReason.LENGTH
    assert endings["late"].failure == TOOK_TOO_LONG
    assert 0 < endings["late"].completion_tokens < 2000
    world.engine.close()


def test_a_deadline_wakes_an_engine_that_waits_for_an_adapter(base: BaseModel, folder: Path) -> None:
    arrives = threading.Event()

    class Slow(World):
        def fetch(self, generation: str) -> AdapterWeights:
            arrives.wait(30)
            return super().fetch(generation)

    world = Slow(base, folder, {"slow": rows_for(base)})
    endings = world.run(replace(request("waits", "slow"), end_by=time.monotonic() + 0.05))
    assert endings["waits"].failure == TOOK_TOO_LONG
    arrives.set()
    assert world.run(request("next", "slow"))["next"].failure is None
    world.engine.close()


# Memory.


NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@contextmanager
def failing(owner: Any, calls: set[int], error: Exception, name: str = "forward") -> Iterator[None]:
    """The owner's method raises in these of its calls, as an allocation inside it would."""
    works, count = getattr(owner, name), 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count in calls:
            raise error
        return works(*args, **kwargs)

    setattr(owner, name, fail)
    try:
        yield
    finally:
        setattr(owner, name, works)


@pytest.mark.safety("reliability 8")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 8])
def test_when_memory_runs_out_the_newest_fails_and_the_rest_say_what_they_would_have_said(
    base: BaseModel, folder: Path, error: Exception, call: int
) -> None:
    world = World(base, folder, {"x": rows_for(base)})
    alone = World(base, folder, {"x": rows_for(base)})
    alone.run(request("adapted", "x", tokens=8))
    requests = [request("first", tokens=8), request("adapted", "x", tokens=8), request("newest", tokens=8)]
    for each in requests:
        world.engine.submit(each)
    with failing(base.model, {call}, error):
        endings = world.run()
        while len(endings) < 3:
            world.events += world.engine.step()
            endings = world.endings()
    failed = [name for name, ended in endings.items() if ended.failure == OUT_OF_MEMORY]
    assert failed in (["newest"], ["first"]), "the first only as long as it is alone"
    assert failed == ["newest"] or call == 1
    expected = {
        "first": greedy(make_model("llama"), [1, 2, 3, 4, 5], 8),
        "adapted": alone.tokens("adapted"),
    }
    for name, tokens in expected.items():
        if name not in failed:
            assert world.tokens(name) == tokens
    world.engine.close()
    alone.engine.close()


@pytest.mark.safety("reliability 8")
@pytest.mark.parametrize("module", [1, 2, 14])
def test_rows_that_find_no_memory_fail_the_newest_that_needs_them_and_come_whole_the_next_time(
    base: BaseModel, folder: Path, module: int
) -> None:
    adapters = {"x": rows_for(base), "y": rows_for(base, fill=0.05)}
    alone = World(base, folder, adapters)
    alone.run(*(request(f"{name} alone", name, tokens=12) for name in adapters))
    world = World(base, folder, adapters, max_slots=5)
    for each in (request("waits", "x", tokens=12), request("base", tokens=12), request("y", "y", tokens=12)):
        world.engine.submit(each)
    world.events += world.engine.step()
    newest = request("newest", "x", tokens=12)
    world.engine.submit(newest)
    world.engine.submit(request("later", tokens=12))
    with failing(Arena, {module}, NO_MEMORY, "insert"):
        while OUT_OF_MEMORY not in [ended.failure for ended in world.endings().values()]:
            world.events += world.engine.step()
    rank_rows = world.engine.runner.rank_rows
    assert len(rank_rows.resident) < 2, "one of the two is not there,"
    assert all(name in rank_rows.resident or not rank_rows.bytes_of(name) for name in adapters), "not in part"
    endings = world.run(request("next", "x", tokens=12))
    while len(endings) < 6:
        world.events += world.engine.step()
        endings = world.endings()
    (failed,) = [name for name, ended in endings.items() if ended.failure == OUT_OF_MEMORY]
    assert failed in ("newest", "y"), "whoever needed what did not fit, not who came last"
    plain = greedy(make_model("llama"), [1, 2, 3, 4, 5], 12)
    expected = {name: alone.tokens("x alone") for name in ("waits", "newest", "next")}
    expected |= {"base": plain, "later": plain, "y": alone.tokens("y alone")}
    assert {n: world.tokens(n) for n in expected if n != failed} == {
        name: tokens for name, tokens in expected.items() if name != failed
    }
    for each in (world, alone):
        each.engine.close()


@pytest.mark.safety("reliability 8")
def test_a_kept_prompt_that_finds_no_memory_fails_the_newest_alone(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {})
    world.run(request("keeps", prompt=40, tokens=2))
    world.engine.submit(request("runs", prompt=5, tokens=30))
    for _ in range(3):
        world.events += world.engine.step()
    world.engine.submit(request("newest", prompt=40, tokens=4))
    with failing(PrefixStore, {1}, NO_MEMORY, "begin"):
        endings = world.run()
        while "runs" not in endings:
            world.events += world.engine.step()
            endings = world.endings()
    assert (endings["newest"].failure, endings["runs"].failure) == (OUT_OF_MEMORY, None)
    assert world.tokens("runs") == greedy(make_model("llama"), [1, 2, 3, 4, 5], 30)
    world.run(request("next", prompt=40, tokens=4))
    assert world.tokens("next") == greedy(make_model("llama"), list(range(1, 41)), 4)
    assert world.engine.stats.prefix_hit_tokens >= 2 * 32, "the kept blocks outlast it"
    world.engine.close()


@pytest.mark.safety("reliability 8")
def test_prompts_computed_together_that_find_no_memory_keep_nothing_unknown(
    base: BaseModel, folder: Path
) -> None:
    """The newest, being longer, has its slot when the other finds none: what the store holds, the index must know."""
    world = World(base, folder, {}, prefill_tokens=256)
    prompts = {"first": tuple(range(1, 41)), "second": tuple(range(60, 110))}
    for name, prompt in prompts.items():
        world.engine.submit(replace(request(name, tokens=4), prompt=prompt))
    with failing(SlotCache, {2}, NO_MEMORY, "join"):
        endings = world.run()
        while len(endings) < 2:
            world.events += world.engine.step()
            endings = world.endings()
    assert sorted(str(each.failure) for each in endings.values()) == sorted([str(None), str(OUT_OF_MEMORY)])
    (whole,) = [name for name, ended in endings.items() if ended.failure is None]
    assert world.tokens(whole) == greedy(make_model("llama"), list(prompts[whole]), 4)
    assert len(world.engine.runner._prefixes) == len(world.engine._prefixes) > 0
    world.engine.close()


def test_a_pin_that_finds_no_memory_costs_no_request_and_waits_for_one(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {"x": rows_for(base)})
    world.engine.submit(request("runs", tokens=30))
    world.engine.pin("x", True)
    with failing(Arena, {1, 2}, NO_MEMORY, "insert"):
        while "runs" not in world.endings():
            world.events += world.engine.step()
    assert world.endings()["runs"].failure is None
    assert world.tokens("runs") == greedy(make_model("llama"), [1, 2, 3, 4, 5], 30)
    while not world.engine.idle:
        world.events += world.engine.step()
    assert not world.engine.runner.rank_rows.resident, "it is not tried again and again"
    assert not world.engine.runner.held("x").host
    assert world.run(request("asks", "x"))["asks"].failure is None
    assert world.engine.runner.rank_rows.resident == {"x": 2}
    world.engine.close()


def test_another_error_than_memory_is_not_taken_for_it(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {})
    world.engine.submit(request("one"))
    with failing(base.model, {1}, RuntimeError("a bug")), pytest.raises(RuntimeError, match="a bug"):
        world.engine.step()
    world.engine.close()


# Hanging steps.


@pytest.mark.safety("reliability 8")
def test_a_step_that_hangs_is_reported_with_the_stacks_and_only_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    pulse = Pulse(lambda: clock[0])
    watchdog = Watchdog(pulse, limit=0.02)
    reported = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reported.set()

    handler = Heard()
    logging.getLogger("lorikeet_server.engine.watchdog").addHandler(handler)
    watchdog.start()
    pulse.begin()
    assert not watchdog.hangs
    clock[0] = 1.0
    assert reported.wait(30)
    assert watchdog.hangs
    pulse.end()
    assert not watchdog.hangs
    watchdog.stop()
    logging.getLogger("lorikeet_server.engine.watchdog").removeHandler(handler)
    assert "test_a_step_that_hangs_is_reported" in caplog.text, "this thread's own stack"
    assert len(caplog.records) == 1
