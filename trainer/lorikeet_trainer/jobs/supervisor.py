"""One thread that has the workers: starts the next job, hears all, stops who must, takes up what was lost.

Nothing that happens to one job ends another: it is tried again later (`rests`), and so is a whole round.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue

from lorikeet_trainer.jobs.clerk import Clerk
from lorikeet_trainer.jobs.errors import JobConflict, JobNotFound
from lorikeet_trainer.jobs.folders import Folders
from lorikeet_trainer.jobs.hand import Ended, Hand
from lorikeet_trainer.jobs.job import Job, JobFailure
from lorikeet_trainer.jobs.ledger import Ledger, Note
from lorikeet_trainer.jobs.lifecycle import WITH_WORKER, JobEvent, JobState
from lorikeet_trainer.jobs.process import COMMAND, LOG, WorkerProcess, end_orphan
from lorikeet_trainer.jobs.rests import Rests
from lorikeet_trainer.messages import Message

log = logging.getLogger("lorikeet")
TICK_S = 1.0  # how long steps may wait to be written down, and how often silence is looked for
ORPHAN_S = 30.0
UPKEEP_S = 60.0
LEAST_ROWS = 10
ROUND, UPKEEP = "a round of training jobs", "the upkeep of training files"  # rest as jobs do
LOST = "The training process was lost"


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
        upkeep: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._clerk = clerk
        self._folders = Folders(folder)
        self._jobs = jobs
        self._silence = silence
        self._command = command
        self._clock = clock
        self._upkeep = upkeep
        self._kept_up = 0.0
        self._rests = Rests()
        self._cleared: set[str] = set()
        self._heard: SimpleQueue[tuple[str, Message | Ended] | None] = SimpleQueue()
        self._hands: dict[str, Hand] = {}
        self._leaving = threading.Event()
        self._gone = threading.Event()  # the thread has ended
        self._broken = threading.Event()  # and not because it was told to
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Orders that a dead server did not finish leave folders, which go before the first order is taken."""
        self._folders.sweep([each.id for each in self._ledger.jobs()])
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

    @property
    def is_broken(self) -> bool:
        """Whether the thread ended by itself: no job goes on before the next start."""
        return self._broken.is_set()

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
            self._begin()
            while not self._leaving.is_set() or self._hands:
                said = self._gathered()
                with self._guarded(ROUND):
                    self._round(said)
                    self._rests.forget(ROUND)
                if self._rests.has(ROUND):
                    self._leaving.wait(self._rests.left(ROUND))
        except BaseException:
            log.critical("training jobs have stopped and wait; restart the server", exc_info=True)
            self._broken.set()
            for each in self._hands.values():
                each.process.kill()
        finally:
            self._gone.set()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """What goes wrong with one job is that job's alone: it is taken up again after a rest."""
        try:
            yield
        except JobConflict:
            log.debug("%s was moved by its owner meanwhile", name)  # the next round sees where it is
        except Exception:
            seconds = self._rests.begin(name)
            log.exception("%s went wrong and is tried again in %g s", name, seconds)

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
            with self._guarded(job):
                self._listen(job, [word for _, word in group])
        self._recover(LOST)
        for each in self._rested(JobState.VALIDATING):
            with self._guarded(each.id):
                self._accept(each)
        for job in list(self._hands):
            with self._guarded(job):
                self._watch(self._ledger.get(job, None), self._hands[job])
        if not self._leaving.is_set():
            self._start_next()
        self._clear_over()
        self._keep_up()

    def _rested(self, *states: JobState) -> list[Job]:
        """Those without a worker that have not just failed."""
        found = self._ledger.jobs(None, *states)
        return [each for each in found if each.id not in self._hands and not self._rests.has(each.id)]

    def _listen(self, job: str, said: list[Message | Ended]) -> None:
        hand = self._hands[job]
        hand.heard = time.monotonic()
        words = [each for each in said if not isinstance(each, Ended)]
        try:
            self._clerk.hear(job, words, self._clock())
            self._rests.forget(job)
        except Exception:
            self._rests.begin(job)
            log.exception("what the worker of %s said cannot be written down; the worker is ended", job)
            hand.process.kill()
        if ended := next((each for each in said if isinstance(each, Ended)), None):
            del self._hands[job]  # first: a job without a hand is recovered, whatever happens here
            self._ended(self._ledger.get(job, None), ended.code)

    def _ended(self, job: Job, code: int) -> None:
        if job.state in WITH_WORKER:
            log.warning(
                "the worker of %s ended with %d and without a last word; see its %s", job.id, code, LOG
            )
            self._clerk.lose(job, LOST)

    def _accept(self, job: Job) -> None:
        """What can be seen without the base's tokenizer; everything else is the worker's to say."""
        if not self._is_whole(job):
            return
        rows = self._folders.rows(job.id)
        if rows >= LEAST_ROWS:
            self._ledger.move(job.id, JobEvent.ACCEPT, Note("Files validated, moving job to queued state"))
            return
        message = f"the training file has {rows} rows, the least is {LEAST_ROWS}; add more examples"
        self._clerk.fail(job.id, JobFailure("invalid_training_file", message, "training_file"))

    def _is_whole(self, job: Job) -> bool:
        """Somebody may have removed its folder, which is the end of this job and of no other."""
        if self._folders.is_whole(job.id):
            return True
        message = "what the job was given is gone from the server's data folder; order it again"
        self._clerk.fail(job.id, JobFailure("data_lost", message))
        return False

    def _watch(self, job: Job, hand: Hand) -> None:
        stops = job.state in (JobState.PAUSING, JobState.CANCELLING) or self._leaving.is_set()
        hand.watch(job.id, self._silence, stops=stops)

    def _start_next(self) -> None:
        for job in self._rested(JobState.QUEUED):
            if len(self._hands) >= self._jobs:
                return
            with self._guarded(job.id):
                if self._is_whole(job):
                    self._ledger.move(job.id, JobEvent.START, Note("Fine-tuning job started"))
                    self._launch(job)

    def _launch(self, job: Job) -> None:
        def said(word: Message | Ended) -> None:
            self._heard.put((job.id, word))

        try:
            process = WorkerProcess(
                self._folders.of(job.id), said, lambda code: said(Ended(code)), self._command
            )
        except OSError:
            log.exception("the worker of %s cannot be started", job.id)
            self._rests.begin(job.id)
            self._clerk.lose(self._ledger.get(job.id, None), "The training process could not be started")
            return
        self._hands[job.id] = Hand(process, time.monotonic())
        process.listen()
        now = self._clock()
        try:
            self._ledger.tell(job.id, (), lease=process.lease, heard=now, started=job.started or now)
        except BaseException:
            process.kill()  # the next start would not know it
            raise

    def _begin(self) -> None:
        """What a server that died has left: workers, and checkpoints that it had not yet made servable."""
        with self._guarded(ROUND):
            self._recover("The server was restarted")
            for job in self._ledger.jobs():
                with self._guarded(job.id):
                    self._clerk.serve_checkpoints(job)

    def _recover(self, reason: str) -> None:
        """Jobs that should have a worker and have none."""
        for job in self._rested(*WITH_WORKER):
            with self._guarded(job.id):
                if not end_orphan(self._folders.of(job.id), job.lease, ORPHAN_S):
                    log.error("a worker of %s is still there and cannot be ended", job.id)
                self._clerk.lose(job, reason)

    def _clear_over(self) -> None:
        for each in self._folders.names() - self._cleared - self._hands.keys():
            if not self._rests.has(each):
                with self._guarded(each):
                    self._clear(each)

    def _clear(self, job: str) -> None:
        try:
            is_over = self._ledger.get(job, None).is_over
        except JobNotFound:
            return  # an order that is being taken
        if is_over:
            self._folders.clear(job)
            self._cleared.add(job)
            self._rests.forget(job)

    def _keep_up(self) -> None:
        if time.monotonic() - self._kept_up > UPKEEP_S and not self._rests.has(UPKEEP):
            with self._guarded(UPKEEP):
                self._upkeep()
                self._rests.forget(UPKEEP)
                self._kept_up = time.monotonic()
