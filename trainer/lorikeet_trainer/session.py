"""A worker from the side of the one who started it: what it says is shown, Ctrl-C becomes a checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lorikeet_trainer.history import LossPoint
from lorikeet_trainer.messages import Began, Message, Phase, Stepped, Warned, from_line
from lorikeet_trainer.progress import Display

LOG_FILE = "worker.log"
# -P: nothing that lies in the current folder is imported.
COMMAND = (sys.executable, "-P", "-m", "lorikeet_trainer.worker")
WORDS = {
    Phase.VALIDATING: "reading the rows",
    Phase.LOADING: "loading the base",
    Phase.EVALUATING: "measuring the adapter",
    Phase.EXPORTING: "writing the adapter",
    Phase.GATING: "judging it as it will be served",
}


def attend(folder: Path, display: Display, note: Callable[[str], None]) -> Message | None:
    """Run the worker of `folder` to its end and return its last word; None when it was killed.

    A first Ctrl-C has it write a checkpoint and end, a second one kills it. It has a session of its
    own, so that a closed terminal is noticed as silence, not as a signal in the middle of a write.
    """
    last: Message | None = None
    with (folder / LOG_FILE).open("ab") as errors:
        process = subprocess.Popen(
            [*COMMAND, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    with process, _interrupts(process, note):
        assert process.stdout is not None
        shown = _Shown(display, note)
        for line in process.stdout:
            last = from_line(line)
            shown.show(last)
        shown.end()
    return last if process.returncode >= 0 else None


class _Shown:
    """The display is open while steps come."""

    def __init__(self, display: Display, note: Callable[[str], None]) -> None:
        self._display = display
        self._note = note
        self._open = False

    def show(self, message: Message) -> None:
        if isinstance(message, Began):
            self.end()
            if message.phase is Phase.TRAINING:
                self._display.begin(message.total_steps)
                self._open = True
            else:
                self._note(WORDS[message.phase])
        elif isinstance(message, Stepped):
            self._display.step(_point(message))
        elif isinstance(message, Warned):
            self._note(f"warning: {message.message}")

    def end(self) -> None:
        if self._open:
            self._display.end()
            self._open = False


@contextmanager
def _interrupts(process: subprocess.Popen[str], note: Callable[[str], None]) -> Iterator[None]:
    told = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal told
        if told:
            process.kill()
        else:
            process.send_signal(signal.SIGTERM)
            note("stopping after this step; press Ctrl-C again to kill it")
        told = True

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _point(said: Stepped) -> LossPoint:
    return LossPoint(
        said.step,
        said.train_loss,
        said.train_accuracy,
        said.learning_rate,
        said.tokens,
        said.valid_loss,
        said.valid_accuracy,
    )
