"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorikeet_trainer.errors import OutputRefused


def refuse_taken(out: Path, *, force: bool) -> None:
    """Raise OutputRefused when `out` cannot be written, before any work is spent on it."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputRefused(f"`{out}` exists and is no folder; choose another name")
    if out.exists() and not force:
        raise OutputRefused(f"the folder `{out}` exists; choose another one, or replace it with --force")


@contextmanager
def whole_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its name when the block ends well.

    What stood there is removed last, so a crash leaves the old folder or the new one. On an error
    in the block nothing is left behind. Raises OutputRefused.
    """
    refuse_taken(out, force=force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise OutputRefused(f"`{out.parent}` cannot be written: {error.strerror}") from error
    try:
        yield staging
        _open_to_readers(staging)
        _sync(staging)
        refuse_taken(out, force=force)
        _take_place(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _take_place(staging: Path, out: Path) -> None:
    if not out.exists():
        staging.rename(out)
        return
    replaced = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old."))
    out.rename(replaced / out.name)
    try:
        staging.rename(out)
    except OSError:
        (replaced / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """mkdtemp's folders and safetensors' files are for their owner only; a server may be another user."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
