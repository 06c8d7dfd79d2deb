"""The life of a training job, as a table. Everything that moves a state stands here.

validating -> queued -> running -> succeeded | failed
                ^  |      |  ^
                |  v      v  | resume, while the worker still writes its checkpoint
              paused <- pausing
cancel leads from every state that is not over, through cancelling where a worker must stop first
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    VALIDATING = "validating"  # what can be said of its files without a tokenizer
    QUEUED = "queued"  # waits for a device
    RUNNING = "running"  # a worker process has it
    PAUSING = "pausing"  # the worker was told to write a checkpoint and end
    PAUSED = "paused"
    CANCELLING = "cancelling"  # the same, and nothing comes after it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobEvent(StrEnum):
    ACCEPT = "accept"  # the files can be read
    START = "start"
    STOP = "stop"  # the worker wrote a checkpoint and ended, as it was told
    LOSE = "lose"  # the worker is gone without a word
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    SUCCEED = "succeed"
    FAIL = "fail"


S, E = JobState, JobEvent
TRANSITIONS: dict[JobState, dict[JobEvent, JobState]] = {
    S.VALIDATING: {E.ACCEPT: S.QUEUED, E.PAUSE: S.PAUSED, E.CANCEL: S.CANCELLED, E.FAIL: S.FAILED},
    S.QUEUED: {E.START: S.RUNNING, E.PAUSE: S.PAUSED, E.CANCEL: S.CANCELLED, E.FAIL: S.FAILED},
    S.RUNNING: {
        E.STOP: S.QUEUED,
        E.LOSE: S.QUEUED,
        E.PAUSE: S.PAUSING,
        E.CANCEL: S.CANCELLING,
        E.SUCCEED: S.SUCCEEDED,
        E.FAIL: S.FAILED,
    },
    S.PAUSING: {
        E.STOP: S.PAUSED,
        E.LOSE: S.PAUSED,
        E.RESUME: S.RUNNING,
        E.CANCEL: S.CANCELLING,
        E.SUCCEED: S.SUCCEEDED,
        E.FAIL: S.FAILED,
    },
    S.PAUSED: {E.RESUME: S.QUEUED, E.CANCEL: S.CANCELLED},
    # Whoever cancelled was told `cancelled`, so a worker that was quicker changes nothing any more.
    S.CANCELLING: {E.STOP: S.CANCELLED, E.LOSE: S.CANCELLED, E.SUCCEED: S.CANCELLED, E.FAIL: S.CANCELLED},
    S.SUCCEEDED: {},
    S.FAILED: {},
    S.CANCELLED: {},
}
OVER = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
WITH_WORKER = frozenset({S.RUNNING, S.PAUSING, S.CANCELLING})
# OpenAI's six. Its clients wait until one of the last three, so `cancelling` is already the last one.
OUTER: dict[JobState, str] = {
    S.VALIDATING: "validating_files",
    S.QUEUED: "queued",
    S.RUNNING: "running",
    S.PAUSING: "running",
    S.PAUSED: "queued",
    S.CANCELLING: "cancelled",
    S.SUCCEEDED: "succeeded",
    S.FAILED: "failed",
    S.CANCELLED: "cancelled",
}
del S, E


class IllegalTransition(RuntimeError):
    """An event came in a state that has no row for it."""


def advance(state: JobState, event: JobEvent) -> JobState:
    """The next state. Raises IllegalTransition and changes nothing when the table has no such row."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"a job that is {state} cannot {event}") from None
