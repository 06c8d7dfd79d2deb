"""The table of a job's life."""

from __future__ import annotations

import pytest

from lorikeet_trainer.jobs.lifecycle import (
    OUTER,
    OVER,
    TRANSITIONS,
    WITH_WORKER,
    IllegalTransition,
    JobEvent,
    JobState,
    advance,
)

FINAL = {"succeeded", "failed", "cancelled"}


def test_the_table_knows_every_state_and_uses_every_event() -> None:
    assert set(TRANSITIONS) == set(JobState) == set(OUTER)
    assert {event for row in TRANSITIONS.values() for event in row} == set(JobEvent)


def test_what_is_over_stays_so_and_everything_else_can_end() -> None:
    assert {state for state, row in TRANSITIONS.items() if not row} == OVER
    for state in set(JobState) - OVER:
        reached = {state}
        for _ in JobState:
            reached |= {after for each in reached for after in TRANSITIONS[each].values()}
        assert reached >= {JobState.CANCELLED}


def test_whoever_was_told_an_end_is_never_told_another() -> None:
    """OpenAI's clients stop asking at the first final status."""
    for state, row in TRANSITIONS.items():
        if OUTER[state] in FINAL:
            assert {OUTER[after] for after in row.values()} <= {OUTER[state]}


def test_a_worker_that_ends_or_is_lost_leaves_no_state_that_has_one() -> None:
    for state in WITH_WORKER:
        for event in (JobEvent.STOP, JobEvent.LOSE, JobEvent.SUCCEED, JobEvent.FAIL):
            assert TRANSITIONS[state][event] not in WITH_WORKER


@pytest.mark.parametrize("state", sorted(OVER))
@pytest.mark.parametrize("event", list(JobEvent))
def test_an_illegal_pair_says_so(state: JobState, event: JobEvent) -> None:
    with pytest.raises(IllegalTransition, match=f"a job that is {state} cannot {event}"):
        advance(state, event)
