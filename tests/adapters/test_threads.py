"""Whoever computes beside the engine leaves no pool of threads behind."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lorikeet_adapters.native import library
from lorikeet_adapters.threads import alone, in_passing

TASKS = Path("/proc/self/task")
WIDE = torch.ones(1 << 20)
needs_proc = pytest.mark.skipif(not TASKS.is_dir(), reason="needs /proc to count threads")


@pytest.fixture(autouse=True)
def _three_threads() -> None:
    """Whatever the machine has; PyTorch sets every thread's number by it when it first computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def tasks() -> int:
    return len(list(TASKS.iterdir()))


def compute() -> int:
    """Enough for PyTorch to want all its threads; how many tasks the process has then."""
    (WIDE + WIDE).sum()
    return tasks()


@needs_proc
def test_a_pool_goes_with_the_thread_that_made_it() -> None:
    before = tasks()
    assert in_passing(compute) > before + 1, "it did have a pool, else nothing is tested here"
    deadline = time.monotonic() + 10
    while tasks() != before:  # they are told to end, and end when they come to it
        assert time.monotonic() < deadline, "the pool is still there"
        time.sleep(0.01)


@needs_proc
@pytest.mark.skipif(not library.functions(), reason="the package was installed without a C compiler")
def test_who_computes_alone_makes_no_pool_and_is_as_before_afterwards() -> None:
    def work() -> tuple[int, int, int, int]:
        before = tasks()
        with alone():
            inside = torch.get_num_threads()
            grown = compute() - before
        return inside, grown, torch.get_num_threads(), compute() - before

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == (1, 0, 3, 2)


def test_what_is_raised_in_passing_is_raised_here() -> None:
    class Own(BaseException):
        pass

    def fail() -> None:
        raise Own(threading.current_thread().name)

    with pytest.raises(Own, match="in-passing"):
        in_passing(fail)
    assert in_passing(lambda: 7) == 7


def test_without_the_library_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorikeet_adapters.threads.functions", dict)
    with alone():
        assert torch.get_num_threads() == 3
