"""How far the reading of a data file has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lorikeet_trainer.validator import Watch

SILENT = 5000  # lines below which plain lines would say nothing that the result does not
PLAIN_LINES = 10


@contextmanager
def watching(console: Console, name: str) -> Iterator[Watch]:
    """For one file."""
    if not console.is_terminal:
        yield _Lines(console, name).say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"checking {name}")
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    """About ten in all."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._next = 1

    def say(self, done: int, total: int) -> None:
        if total < SILENT or done * PLAIN_LINES < self._next * total:
            return
        self._next = done * PLAIN_LINES // total + 1
        self._console.print(
            f"{self._name}: {done:,} of {total:,} lines checked", highlight=False, soft_wrap=True
        )
