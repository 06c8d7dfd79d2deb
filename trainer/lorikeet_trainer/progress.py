"""What a person sees while training runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lorikeet_trainer.history import LossPoint

PLAIN_LINES = 20


class Display(Protocol):
    """`begin` once, `step` after each optimiser step, `end` once, whatever happened."""

    def begin(self, steps: int) -> None: ...

    def step(self, point: LossPoint) -> None: ...

    def end(self) -> None: ...


class _Speed:
    """Of this process: a run that goes on has steps and tokens behind it that took none of its time."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: LossPoint | None = None

    def of(self, point: LossPoint) -> float:
        """Tokens a second."""
        self._first = self._first or point
        before = 0 if self._first.step == 1 else self._first.tokens
        return (point.tokens - before) / self._elapsed

    def remaining(self, point: LossPoint, total: int) -> float:
        """Seconds to the last of `total` steps."""
        self._first = self._first or point
        return self._elapsed / (point.step - self._first.step + 1) * (total - point.step)

    @property
    def _elapsed(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)


class BarDisplay:
    """A live bar: step, loss, validation, tokens a second, time to go."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}{task.fields[valid]}  {task.fields[speed]} tok/s"),
            TimeRemainingColumn(),
            console=console,
        )

    def begin(self, steps: int) -> None:
        self._speed = _Speed()
        self._valid = ""
        self._task = self._progress.add_task("training", total=steps, loss="-", valid="", speed="-")
        self._progress.start()

    def step(self, point: LossPoint) -> None:
        if point.valid_loss is not None:
            self._valid = f"  valid {point.valid_loss:.4f}"
        self._progress.update(
            self._task,
            completed=point.step,
            loss=f"{point.train_loss:.4f}",
            valid=self._valid,
            speed=f"{self._speed.of(point):,.0f}",
        )

    def end(self) -> None:
        self._progress.stop()


class LineDisplay:
    """About twenty lines in all, and those with a validation, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, steps: int) -> None:
        self._steps = steps
        self._speed = _Speed()

    def step(self, point: LossPoint) -> None:
        every = max(1, self._steps // PLAIN_LINES)
        self._speed.of(point)
        if point.step % every and point.step != self._steps and point.valid_loss is None:
            return
        speed = self._speed.of(point)
        remaining = self._speed.remaining(point, self._steps)
        valid = "" if point.valid_loss is None else f"  valid {point.valid_loss:.4f}"
        self._console.print(
            f"step {point.step}/{self._steps}  loss {point.train_loss:.4f}{valid}  {speed:,.0f} tok/s  {remaining:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    def end(self) -> None:
        """Nothing is open."""


def display_on(console: Console) -> Display:
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)
