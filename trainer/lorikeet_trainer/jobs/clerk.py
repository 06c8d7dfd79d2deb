"""What a worker says, written down: progress, events, checkpoints that can be served, and the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from lorikeet_adapters.errors import LorikeetError
from lorikeet_trainer.jobs.files import Files
from lorikeet_trainer.jobs.job import (
    MAX_ATTEMPTS,
    FilePurpose,
    Job,
    JobCheckpoint,
    JobFailure,
    Level,
    Outcome,
    checkpoint_name,
    model_name,
    new_id,
)
from lorikeet_trainer.jobs.ledger import Ledger, Note
from lorikeet_trainer.jobs.lifecycle import JobEvent, JobState
from lorikeet_trainer.jobs.publisher import Publisher
from lorikeet_trainer.jobs.results import results_csv
from lorikeet_trainer.messages import Began, Done, Failed, Message, Saved, Stepped, Stopped, Warned

log = logging.getLogger("lorikeet")
KEPT_CHECKPOINTS = 3
# Their reasons name folders of the operator's: the base's, the data's.
OURS = frozenset({"base_model_refused", "cannot_write", "internal_error", "invalid_request", "refused"})
GATE_FAILED, NOT_SERVABLE, WORKER_LOST = "gate_failed", "adapter_not_servable", "worker_lost"


class Clerk:
    """Called by the supervisor's thread alone."""

    def __init__(self, ledger: Ledger, files: Files, publisher: Publisher, folder: Path) -> None:
        self._ledger = ledger
        self._shelf = files
        self._publisher = publisher
        self._folder = folder
        self.steps = self.checkpoints = self.lost = 0  # since the server started

    def hear(self, job: str, messages: Iterable[Message], now: float) -> None:
        """Steps in a row are one transaction; everything else is one of its own."""
        steps: list[Stepped] = []
        for message in messages:
            if isinstance(message, Stepped):
                steps.append(message)
                continue
            self._stepped(job, steps, now)
            steps = []
            self._one(job, message, now)
        self._stepped(job, steps, now)

    def lose(self, job: Job, reason: str) -> Job:
        """Its worker is gone without a last word: again from the last checkpoint, if that has ever helped."""
        self.lost += 1
        attempt = job.attempt + 1
        if job.state is JobState.RUNNING and attempt >= MAX_ATTEMPTS:
            message = (
                f"the training process was lost {attempt} times without a new checkpoint in between; "
                "the server's log has the reason"
            )
            return self.fail(job.id, JobFailure(WORKER_LOST, message))
        note = Note(f"{reason}; the job goes on from its last checkpoint", Level.WARN)
        return self._ledger.move(job.id, JobEvent.LOSE, note, attempt=attempt, lease=None)

    def fail(self, job: str, failure: JobFailure, generation: str | None = None) -> Job:
        known = self._ledger.get(job, None)
        outcome = replace(
            known.outcome, error=failure, generation=generation, result_file=self._results(known)
        )
        note = Note(f"The job failed: {failure.message}", Level.ERROR)
        return self._ledger.move(job, JobEvent.FAIL, note, outcome=outcome, lease=None)

    def serve_checkpoints(self, job: Job) -> None:
        """Those that a dead server had heard of and not yet made servable."""
        for each in self._ledger.checkpoints(job.id):
            if not each.is_served:
                self._serve(job, each)

    def _one(self, job: str, message: Message, now: float) -> None:
        known = self._ledger.get(job, None)
        match message:
            case Began():
                progress = replace(
                    known.progress,
                    phase=str(message.phase),
                    total_steps=message.total_steps or known.progress.total_steps,
                )
                self._ledger.tell(job, [Note(f"Phase: {message.phase}")], progress=progress, heard=now)
            case Warned():
                self._ledger.tell(job, [Note(message.message, Level.WARN)], heard=now)
            case Saved():
                self._saved(known, message, now)
            case Done():
                self._done(known, message)
            case Failed():
                self.fail(job, _failure(job, message))
            case Stopped():
                note = Note(f"Stopped at step {message.step}, which is kept")
                self._ledger.move(job, JobEvent.STOP, note, lease=None)

    def _stepped(self, job: str, steps: list[Stepped], now: float) -> None:
        if not steps:
            return
        self.steps += len(steps)
        last, known = steps[-1], self._ledger.get(job, None)
        checked = next((each.valid_loss for each in reversed(steps) if each.valid_loss is not None), None)
        progress = replace(
            known.progress,
            step=last.step,
            total_steps=last.total_steps,
            train_loss=last.train_loss,
            valid_loss=known.progress.valid_loss if checked is None else checked,
            tokens=last.tokens,
            tokens_per_second=last.tokens_per_second,
        )
        self._ledger.tell(job, map(_metrics, steps), progress=progress, heard=now)

    def _saved(self, job: Job, message: Saved, now: float) -> None:
        """Written down first: a kill before it can be served is made up for at the next start."""
        self.checkpoints += 1
        name = checkpoint_name(self._publisher.base, job, message.step)
        figures = {key: value for key, value in asdict(message).items() if key not in ("step", "folder")}
        new = JobCheckpoint(
            new_id("ftckpt_"), job.id, message.step, message.folder, name, now, figures, is_served=False
        )
        checkpoint = self._ledger.put_checkpoint(new)
        told = self._ledger.tell(job.id, (), heard=now, attempt=0)
        if self._serve(told, checkpoint):
            note = Note(f"Checkpoint created at step {message.step}: {name}")
            self._ledger.tell(job.id, [note])
        self._forget_old(job)

    def _serve(self, job: Job, checkpoint: JobCheckpoint) -> bool:
        try:
            self._publisher.publish(
                checkpoint.name, self._folder / job.id / checkpoint.folder, job, {"step": checkpoint.step}
            )
        except LorikeetError as error:
            self._ledger.drop_checkpoint(checkpoint)
            note = Note(f"The checkpoint of step {checkpoint.step} cannot be served: {error}", Level.WARN)
            self._ledger.tell(job.id, [note])
            return False
        self._ledger.put_checkpoint(replace(checkpoint, is_served=True))
        return True

    def _forget_old(self, job: Job) -> None:
        """The last ones stay, and the one with the least validation loss."""
        found = [each for each in self._ledger.checkpoints(job.id) if each.is_served]
        judged = [each for each in found if each.metrics.get("valid_loss") is not None]
        best = min(judged, key=lambda each: each.metrics["valid_loss"] or 0.0, default=None)
        for each in found[KEPT_CHECKPOINTS:]:
            if each != best and self._publisher.withdraw(each.name):
                self._ledger.drop_checkpoint(each)

    def _done(self, job: Job, message: Done) -> None:
        folder = self._folder / job.id / message.folder
        if job.state is JobState.CANCELLING:
            self._ledger.move(job.id, JobEvent.SUCCEED, Note("Cancelled"), lease=None)
            return
        try:
            if message.quarantined:
                generation = self._publisher.quarantine(folder, job, message.reason)
                failure = JobFailure(GATE_FAILED, f"{message.reason}; the adapter is quarantined")
                self.fail(job.id, failure, generation)
                return
            name = model_name(self._publisher.base, job)
            generation = self._publisher.publish(name, folder, job, {"steps": message.steps})
        except LorikeetError as error:
            self.fail(job.id, JobFailure(NOT_SERVABLE, f"the adapter cannot be served: {error}"))
            return
        outcome = Outcome(name, generation, message.trained_tokens, self._results(job))
        note = Note(f"The job has successfully completed: {name}")
        moved = self._ledger.move(job.id, JobEvent.SUCCEED, note, outcome=outcome, lease=None)
        if moved.state is JobState.CANCELLED:  # between the look above and now
            self._ledger.tell(job.id, (), outcome=Outcome(result_file=outcome.result_file))
            self._publisher.withdraw(name)

    def _results(self, job: Job) -> str | None:
        """The result file of what was trained, if anything was."""
        events = [each for each in reversed(self._ledger.events(job.id)) if each.type == "metrics"]
        if not events:
            return None
        with self._shelf.intake.file() as arrival:
            arrival.write(results_csv(events))
            return self._shelf.put(arrival, "step_metrics.csv", job.owner, FilePurpose.RESULTS).id


def _failure(job: str, message: Failed) -> JobFailure:
    """What went wrong on our side can name folders, which are for the log alone."""
    if message.code not in OURS:
        return JobFailure(message.code, message.message, message.param or None)
    log.error("the worker of %s failed with %s: %s", job, message.code, message.message)
    return JobFailure(message.code, "the training process failed; the server's log has the reason")


def _metrics(step: Stepped) -> Note:
    """OpenAI's names for the figures, and ours for those it has not."""
    data = {
        "step": step.step,
        "total_steps": step.total_steps,
        "train_loss": step.train_loss,
        "train_mean_token_accuracy": step.train_accuracy,
        "valid_loss": step.valid_loss,
        "valid_mean_token_accuracy": step.valid_accuracy,
        "learning_rate": step.learning_rate,
        "tokens_per_second": step.tokens_per_second,
    }
    words = f"Step {step.step}/{step.total_steps}: training loss={step.train_loss:.4f}"
    if step.valid_loss is not None:
        words += f", validation loss={step.valid_loss:.4f}"
    told = {key: value for key, value in data.items() if value is not None}
    json.dumps(told, allow_nan=False)  # a figure that JSON has no word for is a bug of the worker's
    return Note(words, type="metrics", data=told)
