"""A run's folder, given to a new run where nothing is lost by it. Imports nothing heavy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lorikeet_trainer.errors import OutputRefused
from lorikeet_trainer.request import REQUEST_FILE
from lorikeet_trainer.worker import held

RECORD = Path("adapter", "training_provenance.json")


def make_room(folder: Path, again: str, *, force: bool) -> None:
    """Leave `folder` empty. `again` is the command that goes on with the run in it.

    A run that was judged gives way. One that was not does so with `force` only, and one whose worker
    is alive never does. Raises OutputRefused, RequestRefused.
    """
    if folder.exists():
        if any(folder.iterdir()) and not (folder / REQUEST_FILE).is_file():
            raise OutputRefused(f"`{folder}` exists and is no run's folder; choose another one with --work")
        with held(folder):
            if not force and any(folder.glob("checkpoints/step-*")) and not _was_judged(folder):
                raise OutputRefused(
                    f"`{folder}` holds an unfinished run; drop it with --force, or go on with it: {again}"
                )
            shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _was_judged(folder: Path) -> bool:
    """The gate writes last: an adapter without its verdict is one whose run was killed in it."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and bool(record.get("gate"))
