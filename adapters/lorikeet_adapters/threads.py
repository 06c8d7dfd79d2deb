"""One pool of computing threads: that of the thread which runs the model.

OpenMP keeps a pool for every thread that has ever computed in parallel. When the pools together have
more threads than there are processors, none of them waits for work awake any more, and a step, which
is hundreds of small pieces of parallel work, wakes them for each: on two cores a token then takes half
as long again, though the other pools do nothing. So whoever else computes does it alone, or in
passing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import torch

from lorikeet_adapters.native.library import functions

T = TypeVar("T")


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this thread computes without others, where the native library is there to tell OpenMP so."""
    compute_with = functions().get("compute_with")
    if compute_with is None:
        yield
        return
    torch.get_num_threads()  # PyTorch sets a thread's number when it is first asked for it
    before = compute_with(1)
    try:
        yield
    finally:
        compute_with(before)


def in_passing(call: Callable[[], T]) -> T:
    """What `call` returns or raises, from a thread that is gone, and its pool with it, when this returns."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # whoever asked is told, whatever it is
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="in-passing", daemon=True)
    thread.start()
    found = outcome.result()
    thread.join()
    return found
