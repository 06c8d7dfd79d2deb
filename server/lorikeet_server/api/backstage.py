"""Threads for what operators ask, so that generation never waits for one.

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

T = TypeVar("T")
CHECKING = 4  # registrations, dry runs and combinations at once; the others queue
DELETING = 32  # they sleep until running requests have ended


class Backstage:
    """One application's. The limiters are made on its loop, when first needed."""

    @cached_property
    def checking(self) -> CapacityLimiter:
        return CapacityLimiter(CHECKING)

    @cached_property
    def deleting(self) -> CapacityLimiter:
        return CapacityLimiter(DELETING)


async def checked(http: Request, work: Callable[[], T]) -> T:
    """Run what reads and checks whole adapters."""
    return await to_thread.run_sync(work, limiter=http.app.state.backstage.checking)


async def deleted(http: Request, work: Callable[[], T]) -> T:
    """Run what waits for requests to end."""
    return await to_thread.run_sync(work, limiter=http.app.state.backstage.deleting)
