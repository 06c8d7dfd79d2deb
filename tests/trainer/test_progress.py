"""A bar on a terminal, about twenty plain lines elsewhere."""

from __future__ import annotations

import io
import re

from rich.console import Console

from lorikeet_trainer.history import LossPoint
from lorikeet_trainer.progress import display_on


def shown(*, terminal: bool, steps: int) -> str:
    stream = io.StringIO()
    display = display_on(Console(file=stream, force_terminal=terminal, width=40 if not terminal else 120))
    display.begin(steps)
    for step in range(1, steps + 1):
        display.step(LossPoint(step, 5.0 / step, 0.5, 1e-3, 1000 * step))
    display.end()
    return stream.getvalue()


def test_elsewhere_there_are_plain_lines_and_the_last_step_is_one_of_them() -> None:
    lines = shown(terminal=False, steps=205).splitlines()
    assert 20 <= len(lines) <= 22
    assert re.fullmatch(r"step 10/205  loss 0\.5000  [\d,]+ tok/s  \d+ s left", lines[0])
    assert lines[-1].startswith("step 205/205  loss 0.0244")


def test_a_short_run_shows_every_step() -> None:
    assert len(shown(terminal=False, steps=3).splitlines()) == 3


def test_a_terminal_gets_a_bar_with_step_loss_and_speed() -> None:
    drawn = shown(terminal=True, steps=4)
    assert "\x1b[" in drawn
    assert "4/4" in drawn
    assert re.search(r"loss 1\.2500  [\d,]+ tok/s", drawn)
