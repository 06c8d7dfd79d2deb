"""Every job there is and was, on disk: one transaction a transition, with the event that tells of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lorikeet_trainer.jobs.bell import Bell
from lorikeet_trainer.jobs.database import Database
from lorikeet_trainer.jobs.errors import JobConflict, JobNotFound, JobsWaiting
from lorikeet_trainer.jobs.job import (
    Hyperparameters,
    Job,
    JobCheckpoint,
    JobFailure,
    Lease,
    Level,
    LoggedEvent,
    Method,
    Order,
    Outcome,
    Progress,
)
from lorikeet_trainer.jobs.lifecycle import OVER, IllegalTransition, JobEvent, JobState, advance

COLUMNS = "id, owner, asked, created, state, attempt, progress, outcome, lease, heard, started, finished"
CHECKPOINT = "id, job, step, folder, name, created, metrics, served"
LATEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Note:
    """An event that is not written yet."""

    message: str
    level: Level = Level.INFO
    type: str = "message"
    data: Mapping[str, Any] = field(default_factory=dict)


class Ledger:
    """Every method may be called from any thread. `owner` None is the operator, who sees all."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.bell = Bell()
        self._database = database
        self._clock = clock

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    def create(self, job: Job, note: Note, key: str | None, digest: str, most: int) -> tuple[Job, bool]:
        """Write a new job down; the one there is, and False, when its owner sent the same under this key before.

        Raises JobConflict for another body under the same key, JobsWaiting when `most` of the owner's are open.
        """
        with self._database.transaction() as rows:
            if known := self.keyed(job.owner, key, digest):
                return known, False
            if sum(not each.is_over for each in self.jobs(job.owner)) >= most:
                raise JobsWaiting(f"{most} of your jobs are not over yet; wait for one, or cancel one")
            rows.execute(
                f"INSERT INTO jobs ({COLUMNS}, idempotency, digest) VALUES ({', '.join('?' * 14)})",
                (*_row(job), key, digest),
            )
            self._log(job.id, [note])
        return job, True

    def keyed(self, owner: str, key: str | None, digest: str) -> Job | None:
        """The job that this owner ordered under this key. Raises JobConflict when that was of another body."""
        found = self._database.read(
            "SELECT id, digest FROM jobs WHERE owner = ? AND idempotency = ?", (owner, key)
        )
        if found and found[0][1] != digest:
            raise JobConflict("this Idempotency-Key was sent with another request; use a new key")
        return self.get(found[0][0], None) if found else None

    def move(self, job: str, event: JobEvent, note: Note | None = None, **changes: Any) -> Job:
        """One transition, one transaction; `changes` are fields of the job. Raises JobConflict, JobNotFound."""
        with self._database.transaction():
            known = self.get(job, None)
            try:
                state = advance(known.state, event)
            except IllegalTransition as error:
                raise JobConflict(str(error)) from None
            now = self._clock()
            over = {"finished": known.finished or now} if state in OVER or event is JobEvent.CANCEL else {}
            moved = replace(known, state=state, **over | changes)
            if state is not JobState.FAILED:  # a worker that failed after it was cancelled
                moved = replace(moved, outcome=replace(moved.outcome, error=None))
            self._write(moved)
            self._log(job, [] if note is None else [note])
        self.bell.ring(job)
        return moved

    def tell(self, job: str, notes: Iterable[Note], **changes: Any) -> Job:
        """The same without a transition."""
        with self._database.transaction():
            told = replace(self.get(job, None), **changes)
            self._write(told)
            self._log(job, notes)
        self.bell.ring(job)
        return told

    def get(self, job: str, owner: str | None) -> Job:
        """Raises JobNotFound, also for another owner's."""
        found = self._database.read(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job,))
        if not found or owner not in (None, found[0][1]):
            raise JobNotFound(job)
        return _job(found[0])

    def jobs(self, owner: str | None = None, *states: JobState) -> list[Job]:
        """In the order they were made; of these states, else of all."""
        found = self._database.read(
            f"SELECT {COLUMNS} FROM jobs WHERE (? IS NULL OR owner = ?) "
            "AND (? = '[]' OR state IN (SELECT value FROM json_each(?))) ORDER BY place",
            (owner, owner, *[json.dumps(list(states))] * 2),
        )
        return [_job(row) for row in found]

    def counts(self) -> dict[JobState, int]:
        found = dict(self._database.read("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: found.get(state, 0) for state in JobState}

    def events(self, job: str, limit: int = -1, before: int = LATEST, after: int = 0) -> list[LoggedEvent]:
        """The newest first, of those between the ids `after` and `before`."""
        found = self._database.read(
            "SELECT id, job, at, level, message, type, data FROM events "
            "WHERE job = ? AND id < ? AND id > ? ORDER BY id DESC LIMIT ?",
            (job, before, after, limit),
        )
        return [
            LoggedEvent(id, of, at, Level(level), message, kind, json.loads(data))
            for id, of, at, level, message, kind, data in found
        ]

    def put_checkpoint(self, checkpoint: JobCheckpoint) -> JobCheckpoint:
        """What a worker says of a step twice is one checkpoint, with the id it had first."""
        with self._database.transaction() as rows:
            rows.execute(
                f"INSERT INTO checkpoints ({CHECKPOINT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (job, step) DO UPDATE SET folder = excluded.folder, metrics = excluded.metrics, "
                "name = excluded.name, served = excluded.served",
                (
                    checkpoint.id,
                    checkpoint.job,
                    checkpoint.step,
                    checkpoint.folder,
                    checkpoint.name,
                    checkpoint.created,
                    json.dumps(dict(checkpoint.metrics)),
                    int(checkpoint.is_served),
                ),
            )
        return next(each for each in self.checkpoints(checkpoint.job) if each.step == checkpoint.step)

    def drop_checkpoint(self, checkpoint: JobCheckpoint) -> None:
        with self._database.transaction() as rows:
            rows.execute("DELETE FROM checkpoints WHERE id = ?", (checkpoint.id,))

    def checkpoints(self, job: str) -> list[JobCheckpoint]:
        """The newest step first."""
        found = self._database.read(
            f"SELECT {CHECKPOINT} FROM checkpoints WHERE job = ? ORDER BY step DESC", (job,)
        )
        return [
            JobCheckpoint(id, of, step, folder, name, created, json.loads(metrics), bool(served))
            for id, of, step, folder, name, created, metrics, served in found
        ]

    def _write(self, job: Job) -> None:
        id, owner, *changing = _row(job)
        names = ", ".join(f"{each} = ?" for each in COLUMNS.split(", ")[2:])
        with self._database.transaction() as rows:
            rows.execute(f"UPDATE jobs SET {names} WHERE id = ? AND owner = ?", (*changing, id, owner))

    def _log(self, job: str, notes: Iterable[Note]) -> None:
        now = self._clock()
        with self._database.transaction() as rows:
            rows.executemany(
                "INSERT INTO events (job, at, level, message, type, data) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (job, now, str(each.level), each.message, each.type, json.dumps(dict(each.data)))
                    for each in notes
                ],
            )


def _row(job: Job) -> tuple[Any, ...]:
    lease = None if job.lease is None else json.dumps(asdict(job.lease))
    return (
        job.id,
        job.owner,
        json.dumps(asdict(job.order)),
        job.created,
        str(job.state),
        job.attempt,
        json.dumps(asdict(job.progress)),
        json.dumps(asdict(job.outcome)),
        lease,
        job.heard,
        job.started,
        job.finished,
    )


def _job(row: tuple[Any, ...]) -> Job:
    id, owner, asked, created, state, attempt, progress, outcome, lease, *times = row
    told, came = json.loads(asked), json.loads(outcome)
    order = told | {
        "method": Method(told["method"]),
        "hyperparameters": Hyperparameters(**told["hyperparameters"]),
    }
    error = None if came["error"] is None else JobFailure(**came["error"])
    return Job(
        id,
        owner,
        Order(**order),
        created,
        JobState(state),
        attempt,
        Progress(**json.loads(progress)),
        Outcome(**came | {"error": error}),
        None if lease is None else Lease(**json.loads(lease)),
        *times,
    )
