"""One thread that has the workers: starts the next job, hears all, stops who must, takes up what was lost."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue

from lorikeet_trainer.jobs.briefing import TRAINING
from lorikeet_trainer.jobs.clerk import Clerk
from lorikeet_trainer.jobs.errors import JobConflict
from lorikeet_trainer.jobs.job import Job, JobFailure
from lorikeet_trainer.jobs.ledger import Ledger, Note
from lorikeet_trainer.jobs.lifecycle import WITH_WORKER, JobEvent, JobState
from lorikeet_trainer.jobs.process import COMMAND, LOG, WorkerProcess, end_orphan
from lorikeet_trainer.messages import Message
from lorikeet_trainer.request import REQUEST_FILE

log = logging.getLogger("lorikeet")
TICK_S = 1.0  # how long steps may wait to be written down, and how often silence is looked for
STOP_S = 300.0  # for a checkpoint, once a worker was told to stop
ORPHAN_S = 30.0
KEPT = frozenset({REQUEST_FILE, LOG})  # of the folder of a job that is over
LEAST_ROWS = 10


@dataclass(frozen=True, slots=True)
class Ended:
    code: int


@dataclass(slots=True)
class Hand:
    """A worker and since when it has been silent, or told to stop; in `time.monotonic` seconds."""

    process: WorkerProcess
    heard: float
    told: float | None = None
    killed: bool = False
    last_words: bool = field(default=False)


class Supervisor:
    """`jobs` run at once. A worker that says nothing for `silence` seconds is taken for dead."""

    def __init__(
        self,
        ledger: Ledger,
        clerk: Clerk,
        folder: Path,
        *,
        jobs: int = 1,
        silence: float = 1800.0,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._clerk = clerk
        self._folder = folder
        self._jobs = jobs
        self._silence = silence
        self._command = command
        self._clock = clock
        self._heard: SimpleQueue[tuple[str, Message | Ended] | None] = SimpleQueue()
        self._hands: dict[str, Hand] = {}
        self._leaving = threading.Event()
        self._gone = threading.Event()  # the thread has ended
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something changed in the ledger."""
        self._heard.put(None)

    def leave(self) -> None:
        """Start nothing more, and have every worker write a checkpoint and end; their jobs wait for the next start."""
        self._leaving.set()
        self.wake()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set() or not self._thread.is_alive()

    def close(self, seconds: float) -> bool:
        """Wait for the workers that `leave` has told, and kill what is left then; False if something was."""
        self.leave()
        in_time = self._gone.wait(seconds) if self._thread.is_alive() else True
        for each in list(self._hands.values()):
            each.process.kill()
        if self._thread.ident is not None:
            self._thread.join(ORPHAN_S)
        return in_time

    def _run(self) -> None:
        try:
            self._recover()
            while not self._leaving.is_set() or self._hands:
                self._round(self._gathered())
        except Exception:
            log.exception("the supervisor of training jobs has stopped; restart the server")
            for each in self._hands.values():
                each.process.kill()
        finally:
            self._gone.set()

    def _gathered(self) -> list[tuple[str, Message | Ended]]:
        """What was said within a tick of its first word."""
        found = []
        try:
            found.append(self._heard.get(timeout=TICK_S))
            while True:
                found.append(self._heard.get_nowait())
        except Empty:
            return [each for each in found if each is not None]

    def _round(self, said: list[tuple[str, Message | Ended]]) -> None:
        for job, group in groupby(said, key=lambda each: each[0]):
            self._listen(job, [word for _, word in group])
        for each in self._ledger.jobs(None, JobState.VALIDATING):
            self._accept(each)
        for job in list(self._hands):
            self._watch(self._ledger.get(job, None), self._hands[job])
        if not self._leaving.is_set():
            self._start_next()

    def _listen(self, job: str, said: list[Message | Ended]) -> None:
        hand = self._hands[job]
        hand.heard = time.monotonic()
        words = [each for each in said if not isinstance(each, Ended)]
        try:
            self._clerk.hear(job, words, self._clock())
        except Exception:
            log.exception("what the worker of %s said cannot be written down; the worker is ended", job)
            hand.process.kill()
        if ended := next((each for each in said if isinstance(each, Ended)), None):
            del self._hands[job]
            self._ended(self._ledger.get(job, None), ended.code)

    def _ended(self, job: Job, code: int) -> None:
        if job.state in WITH_WORKER:
            log.warning(
                "the worker of %s ended with %d and without a last word; see its %s", job.id, code, LOG
            )
            job = self._clerk.lose(job, "The training process was lost")
        if job.is_over:
            self._clear(job.id)

    def _accept(self, job: Job) -> None:
        """What can be seen without the base's tokenizer; everything else is the worker's to say."""
        rows = _rows(self._folder / job.id / TRAINING)
        if rows >= LEAST_ROWS:
            note = Note("Files validated, moving job to queued state")
            self._attempt(job, JobEvent.ACCEPT, note)
            return
        message = f"the training file has {rows} rows, the least is {LEAST_ROWS}; add more examples"
        if self._ledger.get(job.id, None).state is JobState.VALIDATING:
            self._clerk.fail(job.id, JobFailure("invalid_training_file", message, "training_file"))
            self._clear(job.id)

    def _watch(self, job: Job, hand: Hand) -> None:
        now = time.monotonic()
        stops = job.state in (JobState.PAUSING, JobState.CANCELLING) or self._leaving.is_set()
        if stops and hand.told is None:
            hand.told = now
            hand.process.stop()
        late = hand.told is not None and now - hand.told > STOP_S
        if not hand.killed and (late or now - hand.heard > self._silence):
            log.warning("the worker of %s does not %s and is ended", job.id, "stop" if late else "speak")
            hand.killed = True
            hand.process.kill()

    def _start_next(self) -> None:
        waiting = [each for each in self._ledger.jobs(None, JobState.QUEUED) if each.id not in self._hands]
        for job in waiting[: max(self._jobs - len(self._hands), 0)]:
            if self._attempt(job, JobEvent.START, Note("Fine-tuning job started")):
                self._launch(job)

    def _launch(self, job: Job) -> None:
        def said(word: Message | Ended) -> None:
            self._heard.put((job.id, word))

        try:
            process = WorkerProcess(
                self._folder / job.id, said, lambda code: said(Ended(code)), self._command
            )
        except OSError:
            log.exception("the worker of %s cannot be started", job.id)
            self._clerk.lose(self._ledger.get(job.id, None), "The training process could not be started")
            return
        self._hands[job.id] = Hand(process, time.monotonic())
        now = self._clock()
        self._ledger.tell(job.id, (), lease=process.lease, heard=now, started=job.started or now)
        process.listen()

    def _recover(self) -> None:
        """What a server that died has left: workers, unfinished checkpoints, folders of nobody."""
        known = {each.id: each for each in self._ledger.jobs()}
        for job in known.values():
            if job.state in WITH_WORKER:
                self._take_up(job)
            self._clerk.serve_checkpoints(job)
        for each in self._folder.iterdir():
            if each.name not in known:
                shutil.rmtree(each, ignore_errors=True)
            elif known[each.name].is_over:
                self._clear(each.name)

    def _take_up(self, job: Job) -> None:
        if not end_orphan(self._folder / job.id, job.lease, ORPHAN_S):
            log.error("a worker of %s is still there and cannot be ended", job.id)
        self._clerk.lose(job, "The server was restarted")

    def _attempt(self, job: Job, event: JobEvent, note: Note) -> bool:
        """False when somebody paused or cancelled the job meanwhile."""
        try:
            self._ledger.move(job.id, event, note)
        except JobConflict:
            return False
        return True

    def _clear(self, job: str) -> None:
        """What a job that is over has no use for: its data, its checkpoints' optimisers."""
        for each in (self._folder / job).iterdir():
            if each.name in KEPT:
                continue
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)


def _rows(path: Path) -> int:
    """Lines that are not blank."""
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
