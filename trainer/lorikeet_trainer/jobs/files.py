"""Files that jobs are made of: bytes under a name of ours, what their owner calls them only in the database.

Write order: the bytes, whole and synced, then the row. What a kill leaves behind is swept at the next start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lorikeet_adapters.arrival import Arrival, Intake
from lorikeet_trainer.jobs.database import Database
from lorikeet_trainer.jobs.errors import FileInUse, FileMissing, FilesTooLarge
from lorikeet_trainer.jobs.job import FilePurpose, JobFile, new_id
from lorikeet_trainer.jobs.lifecycle import OVER

COLUMNS = "id, owner, purpose, filename, bytes, sha256, created, expires"
DONE = ", ".join(f"'{each}'" for each in sorted(OVER))


class Files:
    """Every method may be called from any thread. `owner` None is the operator, who sees all."""

    def __init__(
        self, folder: Path, database: Database, most_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder / "files"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.intake = Intake(folder / "incoming")
        self.intake.sweep()
        self._database = database
        self._most = most_bytes
        self._clock = clock
        self._sweep()

    def put(
        self, arrival: Arrival, filename: str, owner: str, purpose: FilePurpose, lifetime: float | None = None
    ) -> JobFile:
        """Take over a file that has arrived; it goes after `lifetime` seconds, if any. Raises FilesTooLarge."""
        self.drop_expired()  # they take no room from what comes
        digest, now = arrival.seal(), self._clock()
        expires = None if lifetime is None else now + lifetime
        made = JobFile(new_id("file-"), owner, purpose, filename, arrival.size, digest, now, expires)
        with self._database.transaction() as rows:
            if purpose is FilePurpose.FINE_TUNE:
                self._check_room(made)
            arrival.path.rename(self.path(made.id))
            _sync(self._folder)
            values = (made.id, owner, str(purpose), filename, made.bytes, digest, now, expires)
            rows.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        return made

    def get(self, file: str, owner: str | None, param: str | None = None) -> JobFile:
        """Raises FileMissing, also for another owner's and for one whose time is over."""
        found = self._database.read(f"SELECT {COLUMNS} FROM files WHERE id = ?", (file,))
        made = _made(found[0]) if found else None
        if made is None or owner not in (None, made.owner) or self._is_expired(made):
            raise FileMissing(file, param)
        return made

    def files(self, owner: str | None) -> list[JobFile]:
        """The newest first."""
        found = self._database.read(f"SELECT {COLUMNS} FROM files ORDER BY created DESC, rowid DESC")
        made = [_made(row) for row in found]
        return [each for each in made if owner in (None, each.owner) and not self._is_expired(each)]

    def path(self, file: str) -> Path:
        """Where the bytes are; `file` is the id of a file that was found."""
        return self._folder / file

    def delete(self, file: str, owner: str | None) -> None:
        """Raises FileMissing or FileInUse."""
        found = self.get(file, owner)
        with self._database.transaction() as rows:
            if job := self._user_of(found.id):
                raise FileInUse(
                    f"the fine-tuning job {job} needs this file; cancel it, or wait until it is over"
                )
            rows.execute("DELETE FROM files WHERE id = ?", (found.id,))
        self.path(found.id).unlink(missing_ok=True)

    def drop_expired(self) -> None:
        """Those that no open job needs."""
        found = self._database.read(f"SELECT {COLUMNS} FROM files WHERE expires < ?", (self._clock(),))
        for each in map(_made, found):
            with suppress(FileInUse, FileMissing):
                self._drop(each)

    def _drop(self, file: JobFile) -> None:
        with self._database.transaction() as rows:
            if self._user_of(file.id):
                return
            rows.execute("DELETE FROM files WHERE id = ?", (file.id,))
        self.path(file.id).unlink(missing_ok=True)

    def _user_of(self, file: str) -> str | None:
        found = self._database.read(
            f"SELECT id FROM jobs WHERE state NOT IN ({DONE}) "
            "AND ? IN (json_extract(asked, '$.training_file'), json_extract(asked, '$.validation_file'))",
            (file,),
        )
        return found[0][0] if found else None

    def _check_room(self, new: JobFile) -> None:
        ((used,),) = self._database.read("SELECT sum(bytes) FROM files WHERE owner = ?", (new.owner,))
        if (used or 0) + new.bytes > self._most:
            raise FilesTooLarge(
                f"your files would be over {self._most} bytes together, the most that --max-files-bytes allows; "
                "delete some",
                "file",
            )

    def _is_expired(self, file: JobFile) -> bool:
        return file.expires is not None and file.expires < self._clock()

    def _sweep(self) -> None:
        known = {row[0] for row in self._database.read("SELECT id FROM files")}
        for each in self._folder.iterdir():
            if each.name not in known:
                each.unlink()


def _made(row: tuple[object, ...]) -> JobFile:
    made = JobFile(*row)  # type: ignore[arg-type]  # the table is strict
    return replace(made, purpose=FilePurpose(made.purpose))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
