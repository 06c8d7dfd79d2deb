"""Told to end: by SIGTERM, or because nobody listens any more."""

from __future__ import annotations

import signal
from types import FrameType


class StopNow(BaseException):
    """Told to end where nothing is at stake yet. No error, so that nobody who handles errors keeps it."""


class Signal:
    """Between `hold` and `release` a request is remembered and the step is finished; elsewhere it ends the work."""

    def __init__(self) -> None:
        self.requested = False
        self._held = False

    def install(self) -> None:
        """SIGTERM asks; SIGINT is for the one who started us, who sits at the same terminal."""
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        """Raises StopNow when it was asked meanwhile."""
        self._held = False
        self.check()

    def check(self) -> None:
        if self.requested:
            raise StopNow

    def ask(self) -> None:
        self.requested = True
        if not self._held:
            raise StopNow

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.ask()
