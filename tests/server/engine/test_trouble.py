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
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.failures import OUT_OF_MEMORY, QUEUED_TOO_LONG, TOOK_TOO_LONG
from lorikeet_server.engine.request import FinishReason
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


@contextmanager
def failing(model: Any, calls: set[int], error: Exception) -> Iterator[None]:
    """The model's forward raises in these of its calls, as an allocation inside it would."""
    forward, count = model.forward, 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count in calls:
            raise error
        return forward(*args, **kwargs)

    model.forward = fail
    try:
        yield
    finally:
        model.forward = forward


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
