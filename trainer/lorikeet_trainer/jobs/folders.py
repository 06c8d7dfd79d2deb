"""The folders of jobs: what is in each while the job is open, and what stays when it is over."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from lorikeet_trainer.jobs.briefing import TRAINING
from lorikeet_trainer.jobs.process import LOG
from lorikeet_trainer.request import REQUEST_FILE

KEPT = frozenset({REQUEST_FILE, LOG})  # of the folder of a job that is over
CHUNK = 1 << 16


class Folders:
    """A job has the folder of its id, below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, job: str) -> Path:
        return self._root / job

    def names(self) -> set[str]:
        return {each.name for each in self._root.iterdir()}

    def is_whole(self, job: str) -> bool:
        """Whether all that a worker cannot do without is there."""
        return all((self.of(job) / each).exists() for each in (REQUEST_FILE, TRAINING))

    def rows(self, job: str) -> int:
        """Lines of the training file that are not blank, however long a line is."""
        with (self.of(job) / TRAINING).open("rb") as file:
            return count_rows(iter(lambda: file.read(CHUNK), b""))

    def sweep(self, known: Collection[str]) -> None:
        """Remove the folders of no job. Orders that are being taken have one before they are known."""
        for each in self.names() - set(known):
            shutil.rmtree(self.of(each), ignore_errors=True)

    def clear(self, job: str) -> None:
        """Remove what a job that is over has no use for: its data, its checkpoints' optimisers."""
        for each in self.of(job).iterdir():
            if each.name in KEPT:
                continue
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)


def count_rows(chunks: Iterable[bytes]) -> int:
    """Lines that are not blank, of a text in pieces."""
    rows, begun = 0, False  # whether the line that a piece ends in has anything in it
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun = begun or bool(first.strip())
        for line in others:
            rows += begun
            begun = bool(line.strip())
    return rows + begun
