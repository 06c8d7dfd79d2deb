"""An office over a data folder, with workers that stand in for training; opened and killed as often as a test likes."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.store import Store
from lorikeet_trainer.jobs.briefing import Base
from lorikeet_trainer.jobs.job import FilePurpose, Job, JobFile, Order
from lorikeet_trainer.jobs.lifecycle import OVER, JobState
from lorikeet_trainer.jobs.office import Office, TrainingLimits
from tests.trainer import stand_in

BASE = "base"
PATIENCE = 60.0  # seconds until a test that hangs says so
ROWS = 10


def any_adapter(spec: AdapterSpec, weights: Path) -> AdapterFacts:
    return AdapterFacts({"q_proj": spec.rank}, weights.stat().st_size)


def template_in(folder: Path) -> Path:
    """A small adapter whose tensors the stand-in changes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"lora_B": np.ones((2, 2), dtype=np.float32)}, folder / stand_in.WEIGHTS)
    (folder / stand_in.CONFIG).write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    return folder


def command(template: Path) -> tuple[str, ...]:
    return (sys.executable, str(Path(stand_in.__file__)), str(template))


def rows(ends: str = "done", steps: int = stand_in.STEPS, count: int = ROWS) -> bytes:
    first = json.dumps({"ends": ends, "steps": steps})
    return "".join(f"{each}\n" for each in [first, *["{}"] * (count - 1)]).encode()


class House:
    """The parts of a server that jobs need."""

    def __init__(self, folder: Path, *, started: bool = True, **limits: Any) -> None:
        self.folder = folder
        self.store = Store(folder / "data")
        self.registry = Registry(self.store, BASE, any_adapter)
        self.office = Office(
            self.store.folder / "training",
            self.registry,
            Base(BASE, "demo", "fp32", "cpu", 1),
            TrainingLimits(**limits),
            command(template_in(folder / "template")),
        )
        if started:
            self.office.start()

    def close(self, seconds: float = PATIENCE) -> None:
        self.office.leave()
        self.office.close(seconds)
        self.registry.close()
        self.store.close()

    def upload(self, data: bytes, owner: str = "") -> JobFile:
        with self.office.files.intake.file() as arrival:
            arrival.write(data)
            return self.office.files.put(arrival, "rows.jsonl", owner, FilePurpose.FINE_TUNE)

    def order(self, data: bytes | None = None, owner: str = "", **more: Any) -> Job:
        file = self.upload(rows() if data is None else data, owner)
        job, _ = self.office.create(
            Order(**{"model": BASE, "training_file": file.id, "seed": 7, **more}), owner
        )
        return job

    def get(self, job: Job) -> Job:
        return self.office.ledger.get(job.id, None)

    def until(self, job: Job, is_so: Callable[[Job], bool]) -> Job:
        """Wait for the ledger to say so; fails when the job is over without."""
        changed = threading.Event()
        with self.office.heard_by(job.id, changed.set):
            while not is_so(found := self.get(job)):
                assert not found.is_over, (found, self.messages(job))
                assert changed.wait(PATIENCE), (found, self.messages(job))
                changed.clear()
        return found

    def until_over(self, job: Job) -> Job:
        return self.until(job, lambda each: each.state in OVER)

    def until_trained(self, job: Job, step: int) -> Job:
        return self.until(job, lambda each: each.state is JobState.RUNNING and each.progress.step >= step)

    def messages(self, job: Job) -> list[str]:
        """The oldest first."""
        return [each.message for each in reversed(self.office.ledger.events(job.id))]

    def weights_of(self, name: str) -> bytes:
        generation = self.registry.record(name).generation
        return self.registry.locate(generation).weights.read_bytes()
