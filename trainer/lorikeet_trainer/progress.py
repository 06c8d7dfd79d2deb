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
    """Tokens a second since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def of(self, tokens: int) -> float:
        return tokens / max(time.monotonic() - self._start, 1e-9)

    def remaining(self, done: int, total: int) -> float:
        return (time.monotonic() - self._start) / done * (total - done)


class BarDisplay:
    """A live bar: step, loss, tokens a second, time to go."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tok/s"),
            TimeRemainingColumn(),
            console=console,
        )

    def begin(self, steps: int) -> None:
        self._speed = _Speed()
        self._task = self._progress.add_task("training", total=steps, loss="-", speed="-")
        self._progress.start()

    def step(self, point: LossPoint) -> None:
        speed = f"{self._speed.of(point.tokens):,.0f}"
        self._progress.update(self._task, completed=point.step, loss=f"{point.train_loss:.4f}", speed=speed)

    def end(self) -> None:
        self._progress.stop()


class LineDisplay:
    """About twenty lines in all, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, steps: int) -> None:
        self._steps = steps
        self._speed = _Speed()

    def step(self, point: LossPoint) -> None:
        every = max(1, self._steps // PLAIN_LINES)
        if point.step % every and point.step != self._steps:
            return
        speed = self._speed.of(point.tokens)
        remaining = self._speed.remaining(point.step, self._steps)
        self._console.print(
            f"step {point.step}/{self._steps}  loss {point.train_loss:.4f}  {speed:,.0f} tok/s  {remaining:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    def end(self) -> None:
        """Nothing is open."""


def display_on(console: Console) -> Display:
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)
