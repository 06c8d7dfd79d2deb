"""Threads for what may never end: the interpreter does not wait for them when the server has stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begun(work: Callable[[], T]) -> Future[T]:
    """What comes of the work, on a thread of its own; it cannot be cancelled, only forgotten."""
    made: Future[T] = Future()
    made.set_running_or_notify_cancel()

    def run() -> None:
        try:
            made.set_result(work())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=run, name="lorikeet-rendering", daemon=True).start()
    return made
