"""Who has just failed is left alone for a while, and each time for longer."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_S, LONGEST_S = 1.0, 60.0


class Rests:
    """By name, in seconds of `clock`. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rests: dict[str, tuple[int, float]] = {}  # failures in a row, until when

    def begin(self, name: str) -> float:
        """Another failure in a row; returns how long the rest is."""
        failures = self._rests.get(name, (0, 0.0))[0]
        seconds = min(FIRST_S * 2.0**failures, LONGEST_S)
        self._rests[name] = (failures + 1, self._clock() + seconds)
        return seconds

    def has(self, name: str) -> bool:
        return self.left(name) > 0

    def left(self, name: str) -> float:
        """Seconds, 0 without a rest."""
        return max(self._rests[name][1] - self._clock(), 0.0) if name in self._rests else 0.0

    def forget(self, name: str) -> None:
        """It went well: the next failure is a first one."""
        self._rests.pop(name, None)
