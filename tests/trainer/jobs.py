"""Jobs' folders, and workers as processes of their own that are listened to, stopped and killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from lorikeet_trainer.messages import Message, from_line
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.request import Request
from lorikeet_trainer.run import Run
from lorikeet_trainer.stop import Signal

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "lorikeet_trainer.worker")


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_job(folder: Path, base: Path, rows: Path, recipe: Recipe, **fields: object) -> Path:
    folder.mkdir(parents=True)
    request = Request("mood", rows, str(base), threads=1, recipe=recipe)
    request = replace(request, **fields)  # type: ignore[arg-type]  # whatever fields a test names
    request.write(folder)
    return folder


def run_here(folder: Path) -> list[Message]:
    """In this process. Raises what a worker would say as Failed."""
    said: list[Message] = []
    said.append(Run(folder, Request.read(folder), said.append, Signal()).work())
    return said


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with (folder / "stderr.txt").open("a") as errors:
        process = subprocess.Popen(
            [*COMMAND, str(folder)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def messages(out: IO[str] | None) -> Iterator[Message]:
    """Every line must be one; half a line, from a process that was killed, is none."""
    assert out is not None
    return (from_line(line) for line in out if line.endswith("\n"))


def run_worker(folder: Path) -> tuple[int, list[Message]]:
    """To its own end: exit code, and what it said."""
    with worker(folder) as process:
        said = list(messages(process.stdout))
        return process.wait(), said


def adapter_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "adapter").iterdir())}


def kill_often(folder: Path, kills: int, most_messages: int, seed: int) -> list[Message]:
    """Start the worker and kill it at a random moment, `kills` times; then let it run to its end.

    The moment is a number of messages after the start, and some instants more, so that it falls into
    steps, validations and half-written checkpoints alike.
    """
    chance = random.Random(seed)
    for _ in range(kills):
        with worker(folder) as process:
            heard = messages(process.stdout)
            for _ in range(chance.randrange(2, most_messages)):
                if next(heard, None) is None:
                    break
            until = time.monotonic() + chance.uniform(0, 0.05)
            while time.monotonic() < until:
                pass
            process.kill()
    code, said = run_worker(folder)
    assert code == 0, (folder / "stderr.txt").read_text()
    return said
