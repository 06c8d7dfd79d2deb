"""Checkpoints: whole or not there.

    checkpoints/checkpoint-40/    being written by the Trainer; a kill leaves it, the next start removes it
    checkpoints/step-40/          a PEFT folder with its provenance, which can be served as it is
        optimizer.pt scheduler.pt rng_state.pth trainer_state.json    what the Trainer resumes from
        loss.csv                  every step so far
        complete.json             written last: what the run is made from, and a digest of every file

The data's cursor is the step: the order of the rows follows from the seed alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorikeet_trainer.errors import ResumeRefused

FOLDER = "checkpoints"
COMPLETE_FILE = "complete.json"
KEPT = 3
# The Trainer also writes the tokenizer, a card, and its settings as a pickle; nobody reads them here.
READ = ("adapter_", "optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_prov", "loss")
PREFIX, UNFINISHED = "step-", "checkpoint-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`made_from` is what may not change while the run goes on. A `finished` one is the last of its run."""

    folder: Path
    step: int
    made_from: Mapping[str, Any]
    valid_loss: float | None
    finished: bool
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Those of one job's folder."""

    job: Path

    @property
    def root(self) -> Path:
        return self.job / FOLDER

    def staging(self, step: int) -> Path:
        """Where the Trainer writes, and who completes it."""
        return self.root / f"{UNFINISHED}{step}"

    def prepare(self) -> None:
        """Make room, and sweep up what a kill has left."""
        self.root.mkdir(exist_ok=True)
        for path in self.root.iterdir():
            if path.is_dir() and not (path / COMPLETE_FILE).is_file():
                shutil.rmtree(path)

    def complete(
        self, step: int, made_from: Mapping[str, Any], valid_loss: float | None, *, finished: bool
    ) -> Checkpoint:
        """Seal what the Trainer and whoever saved the adapter have written for `step`, and take its name."""
        staging, folder = self.staging(step), self.root / f"{PREFIX}{step}"
        _clear(staging)
        files = {path.name: _seal(path) for path in sorted(staging.iterdir())}
        made = Checkpoint(folder, step, made_from, valid_loss, finished, files)
        content = {key: value for key, value in asdict(made).items() if key != "folder"}
        _write(staging / COMPLETE_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")
        _sync(staging)
        if folder.exists():
            _drop(folder)
        staging.rename(folder)
        _sync(self.root)
        return made

    def newest(self) -> Checkpoint | None:
        """The newest that is whole to the last byte; one that is not is as good as none."""
        return next(filter(_is_whole, self._listed()), None)

    def best(self) -> Checkpoint | None:
        """The one with the lowest validation loss, the earliest of equals; the newest where none was measured."""
        listed = [each for each in self._listed() if _is_whole(each)]
        measured = [each for each in listed if each.valid_loss is not None]
        return min(measured, key=_rank) if measured else next(iter(listed), None)

    def prune(self) -> None:
        """Keep the newest three and the best."""
        listed = list(self._listed())
        best = min(listed, key=_rank, default=None)
        for each in listed[KEPT:]:
            if each != best:
                _drop(each.folder)

    def _listed(self) -> Iterator[Checkpoint]:
        """Newest first."""
        found = []
        for path in self.root.glob(f"{PREFIX}*/{COMPLETE_FILE}"):
            try:
                found.append(Checkpoint(folder=path.parent, **json.loads(path.read_bytes())))
            except (OSError, ValueError, TypeError):
                continue
        return iter(sorted(found, key=lambda each: -each.step))


def refuse_changed(then: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> None:
    """Raises ResumeRefused for the first field that differs, by its path: `recipe.rank`, `data.sha256`."""
    for key in sorted(then.keys() | now.keys()):
        old, new = then.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            refuse_changed(old, new, f"{path}{key}.")
        elif old != new:
            raise ResumeRefused(f"{path}{key}", old, new)


def _clear(staging: Path) -> None:
    for path in list(staging.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)  # DPO's frozen copy of where it began: the next start makes it again
        elif not path.name.startswith(READ):
            path.unlink()


def _rank(each: Checkpoint) -> tuple[float, int]:
    """The best has the lowest; of equals the earliest."""
    return math.inf if each.valid_loss is None else each.valid_loss, each.step


def _is_whole(each: Checkpoint) -> bool:
    try:
        return all(_digest(each.folder / name) == sha for name, sha in each.files.items())
    except OSError:
        return False


def _drop(folder: Path) -> None:
    """Its seal first, so that half of it is never taken for a checkpoint."""
    (folder / COMPLETE_FILE).unlink(missing_ok=True)
    _sync(folder)
    shutil.rmtree(folder)


def _seal(path: Path) -> str:
    """Its bytes are on disk, and others may read them: a server may be another user."""
    path.chmod(0o644)
    _sync(path)
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
