"""Threads of their own for what may hold one long, so that generation never waits for one.

Starlette's own threads are few, and requests need them to render and encode. Registering holds one for as
long as the adapters before it are checked, and deleting for as long as requests run: a script that does
either to fifty adapters at once would otherwise stop all traffic meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from lorikeet_server.errors import ServerBusy

T = TypeVar("T")
CHECKING = 4  # registrations, dry runs and combinations at once; the others queue
DELETING = 32  # they sleep until running requests have ended
RENDERING = 8  # a template that never ends keeps its thread for ever, and must not take everybody's
REVIEWING = 1  # files to train on; they are checked in one process
LOOKING = 2  # through the request log, which can have gigabytes to go through
PARSING = 2  # large bodies at once: each takes a processor, and tens of megabytes
WAITING = 64  # that may queue for either; each holds its body, and two open files
FILES_WAITING = 8  # each may take two minutes
LOOKS_WAITING = 32


class Backstage:
    """One application's. The limiters are made on its loop, when first needed."""

    @cached_property
    def checking(self) -> CapacityLimiter:
        return CapacityLimiter(CHECKING)

    @cached_property
    def deleting(self) -> CapacityLimiter:
        return CapacityLimiter(DELETING)

    @cached_property
    def looking(self) -> CapacityLimiter:
        return CapacityLimiter(LOOKING)

    @cached_property
    def parsing(self) -> CapacityLimiter:
        return CapacityLimiter(PARSING)

    @cached_property
    def reviewing(self) -> CapacityLimiter:
        return CapacityLimiter(REVIEWING)

    @cached_property
    def rendering(self) -> CapacityLimiter:
        return CapacityLimiter(RENDERING)


async def checked(http: Request, work: Callable[[], T]) -> T:
    """Run what reads and checks whole adapters. Raises ServerBusy while too many wait for their turn."""
    return await _queued(
        http.app.state.backstage.checking, WAITING, "adapters are waiting to be checked", work
    )


async def deleted(http: Request, work: Callable[[], T]) -> T:
    """Run what waits for requests to end. Raises ServerBusy while too many wait for their turn."""
    return await _queued(
        http.app.state.backstage.deleting, WAITING, "adapters are waiting to be deleted", work
    )


async def reviewed(http: Request, work: Callable[[], T]) -> T:
    """Run what has a file to train on checked. Raises ServerBusy while too many wait for their turn."""
    return await _queued(
        http.app.state.backstage.reviewing, FILES_WAITING, "files are waiting to be checked", work
    )


async def looked(http: Request, work: Callable[[], T]) -> T:
    """Run what reads or changes the request log. Raises ServerBusy while too many wait for their turn."""
    return await _queued(
        http.app.state.backstage.looking, LOOKS_WAITING, "looks at the request log are waiting", work
    )


async def apart(http: Request, work: Callable[[], T]) -> T:
    """Run what makes a value of a large body."""
    limiter: CapacityLimiter = http.app.state.backstage.parsing
    return await to_thread.run_sync(work, limiter=limiter)


async def _queued(limiter: CapacityLimiter, most: int, what: str, work: Callable[[], T]) -> T:
    if limiter.statistics().tasks_waiting >= most:
        raise ServerBusy(f"{most} {what}; try again in a second")
    return await to_thread.run_sync(work, limiter=limiter)
