"""Who wants to know when something happens to a job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Bell:
    """Every method may be called from any thread; what is rung must return at once."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    @contextmanager
    def heard_by(self, job: str, listener: Callable[[], None]) -> Iterator[None]:
        """`listener` is called after each change to `job`, for as long as `with` lasts."""
        with self._guard:
            self._listeners.setdefault(job, []).append(listener)
        try:
            yield
        finally:
            with self._guard:
                self._listeners[job].remove(listener)
                if not self._listeners[job]:
                    del self._listeners[job]

    def ring(self, job: str) -> None:
        with self._guard:
            listeners = list(self._listeners.get(job, ()))
        for each in listeners:
            each()

    def ring_all(self) -> None:
        with self._guard:
            jobs = list(self._listeners)
        for each in jobs:
            self.ring(each)
