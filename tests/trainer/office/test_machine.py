"""The ledger beside the table: any order of what owners ask, workers say, and kills of the server."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lorikeet_trainer.jobs.errors import JobConflict
from lorikeet_trainer.jobs.job import MAX_ATTEMPTS, Job
from lorikeet_trainer.jobs.ledger import Note
from lorikeet_trainer.jobs.lifecycle import OUTER, OVER, TRANSITIONS, WITH_WORKER, JobEvent, JobState
from lorikeet_trainer.messages import Began, Done, Failed, Message, Phase, Saved, Stepped, Stopped
from tests.trainer.office.house import House, template_in

FINAL = {"succeeded", "failed", "cancelled"}
WORDS: dict[JobEvent, list[Message]] = {
    JobEvent.STOP: [Stopped(1)],
    JobEvent.SUCCEED: [Done("adapter", 2, 16, 0.5), Done("adapter", 2, 16, 0.5, True, "worse")],
    JobEvent.FAIL: [Failed("loss_not_finite", "the loss is nan")],
}


def has(*states: JobState) -> Any:
    """A rule for as long as a job is in one of these states."""
    return precondition(lambda self: any(not states or each in states for each in self.states.values()))


class JobMachine(RuleBasedStateMachine):
    """The supervisor's thread is not running: the machine is the thread, one event at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = TemporaryDirectory()
        self.folder = Path(self.scratch.name)
        self.house = House(self.folder, started=False)
        self.states: dict[str, JobState] = {}
        self.told: dict[str, str] = {}  # the final status that an owner has seen
        self.steps: dict[str, int] = {}

    def teardown(self) -> None:
        self.house.close(0.0)
        self.scratch.cleanup()

    def pick(self, data: st.DataObject, *states: JobState) -> Job:
        known = [each for each in self.states if not states or self.states[each] in states]
        place = data.draw(st.integers(0, len(known) - 1))  # ids are random, places are not
        return self.house.office.ledger.get(known[place], None)

    @precondition(lambda self: len(self.states) < 4)
    @rule()
    def order(self) -> None:
        job = self.house.order()
        for name in ("adapter", "checkpoint"):
            template_in(self.house.store.folder / "training" / "jobs" / job.id / name)
        self.states[job.id] = job.state

    @has()
    @rule(data=st.data(), event=st.sampled_from([JobEvent.PAUSE, JobEvent.RESUME, JobEvent.CANCEL]))
    def ask(self, data: st.DataObject, event: JobEvent) -> None:
        job = self.pick(data)
        ask = getattr(self.house.office, str(event))
        legal = TRANSITIONS[self.states[job.id]].get(event)
        if legal is None:
            with pytest.raises(JobConflict):
                ask(job.id, None)
        else:
            ask(job.id, None)
            self.states[job.id] = legal

    @has(JobState.VALIDATING, JobState.QUEUED)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        job = self.pick(data, JobState.VALIDATING, JobState.QUEUED)
        event = JobEvent.ACCEPT if job.state is JobState.VALIDATING else JobEvent.START
        self.house.office.ledger.move(job.id, event, Note("on"))
        self.states[job.id] = TRANSITIONS[job.state][event]

    @has(*WITH_WORKER)
    @rule(data=st.data())
    def train(self, data: st.DataObject) -> None:
        job = self.pick(data, *WITH_WORKER)
        step = self.steps[job.id] = self.steps.get(job.id, 0) + 1
        said = [
            Began(Phase.TRAINING, 9),
            Stepped(step, 9, 1.0, 0.5, 1e-4, 8, 9.0),
            Saved(step, "checkpoint", 1.0, 0.5),
        ]
        self.house.office.clerk.hear(job.id, said, 1.0)
        assert self.house.get(job).attempt == 0

    @has(*WITH_WORKER)
    @rule(data=st.data(), event=st.sampled_from(sorted(WORDS)))
    def end(self, data: st.DataObject, event: JobEvent) -> None:
        job = self.pick(data, *WITH_WORKER)
        word = data.draw(st.sampled_from(WORDS[event]))
        self.house.office.clerk.hear(job.id, [word], 1.0)
        quarantined = isinstance(word, Done) and word.quarantined
        self.states[job.id] = TRANSITIONS[job.state][JobEvent.FAIL if quarantined else event]

    @has(*WITH_WORKER)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        job = self.pick(data, *WITH_WORKER)
        self.house.office.clerk.lose(job, "lost")
        self.expect_lost(job)

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """A kill closes nothing in order; what the next start finds is what was committed."""
        before = {each: self.house.office.ledger.get(each, None) for each in self.states}
        if clean:
            self.house.close(0.0)
        else:
            self.house.office._database.close()
            self.house.registry.store.close()
        self.house = House(self.folder, started=False)
        for each, job in before.items():
            assert self.house.office.ledger.get(each, None) == job
        self.house.office.supervisor._begin()
        for job in before.values():
            if job.state in WITH_WORKER:
                self.expect_lost(job)

    def expect_lost(self, job: Job) -> None:
        gives_up = job.state is JobState.RUNNING and job.attempt + 1 >= MAX_ATTEMPTS
        self.states[job.id] = TRANSITIONS[job.state][JobEvent.FAIL if gives_up else JobEvent.LOSE]

    @invariant()
    def the_ledger_is_where_the_table_says(self) -> None:
        for each, state in self.states.items():
            job = self.house.office.ledger.get(each, None)
            assert job.state is state
            assert (job.finished is not None) == (OUTER[state] in FINAL)
            assert job.lease is None or state in WITH_WORKER
            assert job.state is not JobState.RUNNING or job.attempt < MAX_ATTEMPTS
            assert (job.outcome.error is not None) == (state is JobState.FAILED)
            assert (job.outcome.model is not None) == (state is JobState.SUCCEEDED)

    @invariant()
    def an_end_that_was_told_stays(self) -> None:
        for each, state in self.states.items():
            if each in self.told:
                assert OUTER[state] == self.told[each]
            elif OUTER[state] in FINAL:
                self.told[each] = OUTER[state]

    @invariant()
    def what_is_named_can_be_used(self) -> None:
        for each in self.states:
            job = self.house.office.ledger.get(each, None)
            names = [point.name for point in self.house.office.ledger.checkpoints(each) if point.is_served]
            names += [job.outcome.model] if job.outcome.model else []
            names += [job.outcome.generation] if job.outcome.generation and not job.outcome.model else []
            assert all(map(self.house.registry.is_name, names))

    @invariant()
    def files_are_there_for_as_long_as_they_are_needed(self) -> None:
        for each, state in self.states.items():
            if state not in OVER:
                file = self.house.office.ledger.get(each, None).order.training_file
                with suppress(Exception):
                    self.house.office.files.delete(file, None)
                self.house.office.files.get(file, None)


class TestJobs(JobMachine.TestCase):  # type: ignore[misc]  # hypothesis makes it
    """The short form."""

    settings = settings(max_examples=5, stateful_step_count=15, deadline=None)


@pytest.mark.soak
@pytest.mark.timeout(3600)
class TestJobsForLong(JobMachine.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
