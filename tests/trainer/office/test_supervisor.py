"""What goes wrong with one job, and what an owner does at the wrong moment, ends no other."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorikeet_trainer.jobs.errors import TrainingBroken
from lorikeet_trainer.jobs.folders import count_rows
from lorikeet_trainer.jobs.job import Job
from lorikeet_trainer.jobs.lifecycle import JobState
from lorikeet_trainer.jobs.rests import LONGEST_S, Rests
from tests.trainer.office.house import PATIENCE, House, rows

DATA = {"training.jsonl", "checkpoints", "adapter", "held"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Not started yet, so that a test can order first."""
    made = House(tmp_path, started=False)
    yield made
    made.close()


def folder_of(house: House, job: Job) -> Path:
    return house.store.folder / "training" / "jobs" / job.id


def before(thing: Any, name: str, act: Callable[[], object]) -> None:
    """The next call of a method is the moment at which something else happens."""
    real = getattr(thing, name)

    def acting(*values: object, **named: object) -> object:
        setattr(thing, name, real)
        act()
        return real(*values, **named)

    setattr(thing, name, acting)


@pytest.mark.safety("reliability 10")
@pytest.mark.parametrize("ask", ["cancel", "pause"])
@pytest.mark.parametrize(("count", "moment"), [(3, "fail"), (10, "_is_whole")])
def test_a_job_that_is_moved_while_it_is_looked_at(house: House, ask: str, count: int, moment: str) -> None:
    job = house.order(rows(count=count))
    looking = house.office.clerk if moment == "fail" else house.office.supervisor
    before(looking, moment, lambda: getattr(house.office, ask)(job.id, None))
    house.office.start()
    assert house.until_over(house.order()).state is JobState.SUCCEEDED
    assert house.get(job).state is (JobState.CANCELLED if ask == "cancel" else JobState.PAUSED)


@pytest.mark.safety("reliability 10")
def test_an_order_taken_while_the_supervisor_recovers_keeps_its_folder(house: House) -> None:
    made = [house.order()]
    before(house.office.clerk, "serve_checkpoints", lambda: made.append(house.order()))
    house.office.start()
    assert house.until_over(made[0]).state is JobState.SUCCEEDED
    assert house.until_over(made[1]).state is JobState.SUCCEEDED


@pytest.mark.safety("reliability 10")
@pytest.mark.parametrize("gone", ["", "training.jsonl", "request.json"])
def test_a_job_whose_folder_is_gone_fails_alone(house: House, gone: str) -> None:
    job = house.order()
    lost = folder_of(house, job) / gone
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    other = house.order()
    house.office.start()
    assert house.until_over(other).state is JobState.SUCCEEDED
    done = house.until_over(job)
    assert done.outcome.error is not None
    assert done.outcome.error.code == "data_lost"


@pytest.mark.safety("reliability 10")
@pytest.mark.parametrize("moment", ["hear", "lose", "serve_checkpoints"])
def test_a_disk_that_is_full_for_a_moment_costs_no_job(house: House, moment: str) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    before(house.office.clerk, moment, full)
    job = house.order(rows("crash", steps=3))
    house.office.start()
    assert house.until_over(job).state is JobState.SUCCEEDED


@pytest.mark.safety("reliability 10")
def test_a_round_that_fails_is_followed_by_the_next(house: House) -> None:
    def broken() -> None:
        raise OSError(5, "Input/output error")

    before(house.office.ledger, "jobs", lambda: before(house.office.ledger, "jobs", broken))
    house.office.start()
    assert house.until_over(house.order()).state is JobState.SUCCEEDED


@pytest.mark.safety("reliability 10")
def test_training_that_has_stopped_says_so(house: House) -> None:
    def leave() -> None:
        raise SystemExit

    job = house.order(rows(steps=2000))
    house.office.start()
    lease = house.until_trained(job, 2).lease
    assert lease is not None
    before(house.office.supervisor, "_round", leave)
    house.office.supervisor.wake()
    house.office.supervisor._gone.wait(PATIENCE)
    assert house.office.is_broken
    with pytest.raises(TrainingBroken, match="restarted"):
        house.order()
    assert house.office.supervisor._hands[job.id].process.wait(PATIENCE), "the worker is killed"
    with pytest.raises(ChildProcessError):  # and somebody has waited for it
        os.waitpid(lease.pid, 0)


def test_a_job_cancelled_before_it_had_a_worker_leaves_no_data(house: House) -> None:
    first, second = house.order(rows(steps=2000)), house.order()
    house.office.start()
    house.until_trained(first, 4)
    house.until(second, lambda each: each.state is JobState.QUEUED)
    house.office.cancel(second.id, None)
    house.office.pause(first.id, None)
    house.until(first, lambda each: each.state is JobState.PAUSED)
    assert (folder_of(house, first) / "checkpoints").exists()
    house.office.cancel(first.id, None)
    until_idle(house)
    for job in (first, second):
        assert not DATA & {each.name for each in folder_of(house, job).iterdir()}


def until_idle(house: House) -> None:
    """The last worker has ended; two rounds later, what the first of them has seen is done."""
    rounds = 0
    while rounds < 2:
        over = threading.Event()
        before(house.office.supervisor, "_keep_up", over.set)
        house.office.supervisor.wake()
        assert over.wait(PATIENCE)
        rounds = 0 if house.office.supervisor._hands else rounds + 1


def test_rows_are_counted_however_long_a_line_is() -> None:
    for text, expected in ((b"", 0), (b"\n \n", 0), (b"a\n\nb", 2), (b"a" * 200 + b"\n\t\nb\n", 2)):
        for size in (1, 3, 1000):
            chunks = [text[at : at + size] for at in range(0, len(text), size)]
            assert count_rows(chunks) == expected == sum(bool(each.strip()) for each in text.split(b"\n"))


def test_each_rest_in_a_row_is_longer() -> None:
    now = [0.0]
    rests = Rests(lambda: now[0])
    lengths = [rests.begin("a") for _ in range(9)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (1.0, LONGEST_S)
    assert rests.has("a")
    assert not rests.has("b")
    now[0] = LONGEST_S
    assert not rests.has("a")
    rests.forget("a")
    assert rests.begin("a") == 1.0
