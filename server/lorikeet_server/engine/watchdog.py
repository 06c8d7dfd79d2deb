"""A thread that looks at the engine from outside: when a step hangs, every thread's stack goes to the log."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

log = logging.getLogger(__name__)


class Pulse:
    """When the present step began. Written by the engine thread, read by any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None

    def begin(self) -> None:
        self._began = self._clock()

    def end(self) -> None:
        self._began = None

    @property
    def age(self) -> float:
        """Seconds since the present step began; 0 between steps."""
        began = self._began
        return 0.0 if began is None else self._clock() - began


class Watchdog:
    """Looks every `limit / 4` seconds; says once for each step that it has taken longer than `limit` seconds."""

    def __init__(self, pulse: Pulse, limit: float) -> None:
        self._pulse = pulse
        self._limit = limit
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def hangs(self) -> bool:
        return self._pulse.age > self._limit

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        said = False
        while not self._ended.wait(self._limit / 4):
            if self.hangs and not said:
                log.error("the engine's step has taken over %g s; its threads:\n%s", self._limit, stacks())
            said = self.hangs


def stacks() -> str:
    """What every thread is doing, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
    )
