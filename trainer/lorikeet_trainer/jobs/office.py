"""Where jobs are ordered and asked about: what the routes see of this package."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.mix import Term
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.view import View
from lorikeet_trainer.jobs.briefing import Base, Material, Parent, brief, recipe_of
from lorikeet_trainer.jobs.clerk import Clerk
from lorikeet_trainer.jobs.database import Database
from lorikeet_trainer.jobs.errors import FileMissing, JobRefused, TrainingBroken, TrainingUnavailable
from lorikeet_trainer.jobs.files import Files
from lorikeet_trainer.jobs.job import FilePurpose, Job, Order, new_id
from lorikeet_trainer.jobs.ledger import Ledger, Note
from lorikeet_trainer.jobs.lifecycle import JobEvent
from lorikeet_trainer.jobs.process import COMMAND
from lorikeet_trainer.jobs.publisher import Publisher
from lorikeet_trainer.jobs.review import Review
from lorikeet_trainer.jobs.supervisor import Supervisor

MOST_OPEN = 32  # jobs of one owner that are not over
NEEDED = "trl"  # of the extra `train`


@dataclass(frozen=True, slots=True)
class TrainingLimits:
    """`jobs` 0 is a server that does not train. `files` in bytes of one owner, `silence` in seconds."""

    jobs: int = 1
    files: int = 8 << 30
    silence: float = 1800.0


class Office:
    """Every method may be called from any thread. `owner` is a tenant, empty or None for the operator."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        base: Base,
        limits: TrainingLimits = TrainingLimits(),
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        self._jobs = folder / "jobs"
        self._jobs.mkdir(parents=True, exist_ok=True)
        self._database = Database(folder / "jobs.sqlite")
        self._registry = registry
        self._base = base
        self._limits = limits
        self._is_ours = command == COMMAND
        self.ledger = Ledger(self._database)
        self.files = Files(folder, self._database, limits.files)
        self.review = Review(base)
        self.clerk = Clerk(self.ledger, self.files, Publisher(registry), self._jobs)
        self.supervisor = Supervisor(
            self.ledger,
            self.clerk,
            self._jobs,
            jobs=limits.jobs,
            silence=limits.silence,
            command=command,
            upkeep=self.files.drop_expired,
        )

    def start(self) -> None:
        """Before the first order is taken."""
        self.supervisor.start()

    def leave(self) -> None:
        """The server is stopping: no job is begun, and those that run write a checkpoint and end."""
        self.supervisor.leave()
        self.review.close()
        self.ledger.bell.ring_all()

    @property
    def is_gone(self) -> bool:
        """Whether every worker has ended since `leave`."""
        return self.supervisor.is_gone

    @property
    def is_broken(self) -> bool:
        """Whether training has ended by itself: no job goes on before the server is started again."""
        return self.supervisor.is_broken

    def close(self, seconds: float) -> None:
        """Workers have so long; then they are killed and go on at the next start all the same."""
        self.supervisor.close(seconds)
        self.review.close()
        self._database.close()

    def create(self, order: Order, owner: str, key: str | None = None, digest: str = "") -> tuple[Job, bool]:
        """A new job, or the one that was made of the same order under this key before, and False.

        Raises JobRefused, FileMissing, JobConflict, JobsWaiting, TrainingUnavailable, TrainingBroken, or
        AdapterNotFound for a model that is not there for this owner.
        """
        if known := self.ledger.keyed(owner, key, digest):
            return known, False  # whatever has become of its files
        self._check_available()
        with self._material(order, owner) as (material, generation):
            job = Job(new_id("ftjob-"), owner, replace(order, parent=generation), self.ledger.now())
            self._check_recipe(job)
            made, is_new = self._enter(job, material, key, digest)
        self.supervisor.wake()
        return made, is_new

    def _enter(self, job: Job, material: Material, key: str | None, digest: str) -> tuple[Job, bool]:
        """Its folder first, whole; nothing of it stays when it is no new job after all."""
        folder = self._jobs / job.id
        is_new = False
        try:
            brief(folder, job, self._base, material)
            note = Note(f"Created fine-tuning job: {job.id}")
            made, is_new = self.ledger.create(job, note, key, digest, MOST_OPEN)
        except FileNotFoundError:
            self._data(job.order, job.owner)  # one that was deleted meanwhile is its owner's to hear of
            raise
        finally:
            if not is_new:
                shutil.rmtree(folder, ignore_errors=True)
        return made, is_new

    def cancel(self, job: str, owner: str | None) -> Job:
        return self._move(job, owner, JobEvent.CANCEL, "The job was cancelled")

    def pause(self, job: str, owner: str | None) -> Job:
        return self._move(job, owner, JobEvent.PAUSE, "The job was paused")

    def resume(self, job: str, owner: str | None) -> Job:
        return self._move(job, owner, JobEvent.RESUME, "The job was resumed", attempt=0)

    def check(self, file: str, owner: str | None, line: int | None = None) -> dict[str, Any]:
        """What a job would find in the file, as the trainer's Report, with the row on this line.

        Raises FileMissing, JobRefused for another purpose's, CheckFailed, CheckTimedOut.
        """
        found = self.files.get(file, owner)
        if found.purpose is not FilePurpose.FINE_TUNE:
            raise JobRefused(f"{file} was not uploaded with the purpose fine-tune")
        report = self.review.check(self.files.path(found.id), found.filename, line)
        if report is None:
            raise FileMissing(file)
        return report

    def counts(self) -> Mapping[str, int]:
        """Jobs by state."""
        return {str(state): count for state, count in self.ledger.counts().items()}

    def totals(self) -> tuple[int, int, int]:
        """Steps, checkpoints and workers lost since the server started."""
        return self.clerk.steps, self.clerk.checkpoints, self.clerk.lost

    def heard_by(self, job: str, listener: Callable[[], None]) -> AbstractContextManager[None]:
        """`listener` is called on some thread after each change to the job, for as long as `with` lasts."""
        return self.ledger.bell.heard_by(job, listener)

    def _move(self, job: str, owner: str | None, event: JobEvent, words: str, **changes: int) -> Job:
        self.ledger.get(job, owner)
        moved = self.ledger.move(job, event, Note(words), **changes)
        self.supervisor.wake()
        return moved

    @contextmanager
    def _material(self, order: Order, owner: str) -> Iterator[tuple[Material, str | None]]:
        """With the parent's generation, which cannot go before the block ends."""
        training, validation = self._data(order, owner)
        view = View(self._registry, owner or None)
        mix = view.lease([Term(order.model, 1.0)])
        try:
            if not mix.adapters:
                yield Material(training, validation), None
                return
            found = self._registry.locate(mix.adapters[0])
            parent = Parent(found.config.read_bytes(), found.weights)
            yield Material(training, validation, parent), mix.adapters[0]
        finally:
            view.release(mix)

    def _data(self, order: Order, owner: str) -> tuple[Path, Path | None]:
        training = self._file(order.training_file, owner, "training_file")
        given = order.validation_file
        return training, None if given is None else self._file(given, owner, "validation_file")

    def _file(self, file: str, owner: str, field: str) -> Path:
        """Raises FileMissing, also for one that is being deleted, and JobRefused for another purpose's."""
        found = self.files.get(file, owner or None, field)
        if found.purpose is not FilePurpose.FINE_TUNE:
            raise JobRefused(f"{field}: {file} was not uploaded with the purpose fine-tune", field)
        path = self.files.path(found.id)
        if not path.exists():
            raise FileMissing(file, field)
        return path

    def _check_available(self) -> None:
        if not self._limits.jobs:
            raise TrainingUnavailable("this server does not train; start it with --training-jobs 1 or more")
        if self._is_ours and importlib.util.find_spec(NEEDED) is None:
            raise TrainingUnavailable("this server was installed without lorikeet[train] and cannot train")
        if self.is_broken:
            raise TrainingBroken(
                "training has stopped after an error; it goes on when the server is restarted"
            )

    def _check_recipe(self, job: Job) -> None:
        """What the worker would refuse at once is refused here."""
        try:
            recipe_of(job.order, self._base)
        except RefusedError as error:
            raise JobRefused(str(error), "hyperparameters") from None
