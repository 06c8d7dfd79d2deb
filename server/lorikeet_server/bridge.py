"""Between the asyncio side and the engine thread. The only module that imports both worlds.

Delivery never blocks and never fails: each request has an unbounded queue of its own, events for a
request that has gone are dropped, and endings are values like any other event. A request's leases
are released at its terminal event, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from lorikeet_adapters.mix import Mix
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.failures import DEAD
from lorikeet_server.engine.request import Event, Failure, Finished, FinishReason, Request
from lorikeet_server.errors import EngineDead, RequestError, ServerDraining
from lorikeet_server.limits import Amount, Limits

log = logging.getLogger(__name__)
STOP_TIMEOUT_S = 30.0


@dataclass(slots=True)
class _Open:
    request: Request
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


class Leases(Protocol):
    def release(self, mix: Mix) -> None:
        """End one lease on a mix."""


class EventStream:
    """The events of one request, a `Finished` last. Whoever drops it early has cancelled the request."""

    def __init__(self, events: asyncio.Queue[Event], cancel: Callable[[], None]) -> None:
        self._events = events
        self._cancel = cancel
        self._finished = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        if self._finished:
            raise StopAsyncIteration
        event = await self._events.get()
        self._finished = isinstance(event, Finished)
        return event

    def close(self) -> None:
        """A plain call: an await in a response's `finally` would be cancelled again with the response."""
        if not self._finished:
            self._finished = True
            self._cancel()

    def __del__(self) -> None:
        # A response that is torn down before its first byte never runs the code that would close this.
        self.close()


class Bridge:
    """`observe(request, event)` sees every event once, on the loop, whether or not anybody listens."""

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        limits: Limits,
        observe: Callable[[Request, Event], None],
    ) -> None:
        self.engine = engine
        self._leases = leases
        self._limits = limits
        self._observe = observe
        self._open: dict[str, _Open] = {}
        self._open_of: dict[str, Amount] = {}  # by tenant
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Call on the loop that will consume the events."""
        self._loop = asyncio.get_running_loop()
        self.engine.publish = self._publish
        self._thread.start()

    def drain(self) -> int:
        """Take no new requests from now on; returns how many are open."""
        self.draining = True
        return len(self._open)

    async def idle(self) -> None:
        """Returns once no request is open."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Abort what still runs and join the engine thread. Afterwards every request has its terminal event."""
        self.draining = True
        self.engine.stop()
        await asyncio.to_thread(self._thread.join, STOP_TIMEOUT_S)
        if self._thread.is_alive():
            log.error(
                "the engine's step has not ended within %g s; its requests are given up", STOP_TIMEOUT_S
            )
            self._end_open(FinishReason.ABORTED)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ended and self.engine.failure is None

    @property
    def is_full(self) -> bool:
        """As many requests are open as may be. Call on the loop."""
        return len(self._open) >= self._limits.total.requests

    @property
    def hangs(self) -> bool:
        """The engine's step takes far too long; it may yet end."""
        return self.engine.hangs

    def adapters_in_use(self) -> frozenset[str]:
        """Generations that open requests name. Call on the loop."""
        return frozenset(each for opened in self._open.values() for each in opened.request.mix.adapters)

    def submit(self, requests: Sequence[Request]) -> list[EventStream]:
        """Take over the caller's lease on each request's mix and stream its events.

        Raises ServerDraining, EngineDead or what `Limits.check` does, at once; then every lease is released.
        """
        try:
            if self.draining:
                raise ServerDraining("the server is stopping and takes no new requests; send it to another")
            if not self.alive:
                raise EngineDead(DEAD.message)
            self._limits.check(self._open_of, requests)
        except RequestError:
            for request in requests:
                self._leases.release(request.mix)
            raise
        streams = []
        for request in requests:
            opened = self._open[request.id] = _Open(request)
            self._account(request.tenant, Amount.of([request]))
            self._idle.clear()
            self.engine.submit(self._limits.timed(request))
            streams.append(EventStream(opened.events, partial(self.engine.cancel, request.id)))
        return streams

    def _run(self) -> None:
        """The engine answers every request itself; what it could not, after all, is answered here."""
        try:
            self.engine.run()
        except Exception:
            log.exception("the engine thread ended")
        finally:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._fail_open)

    def _fail_open(self) -> None:
        self._ended = True  # on the loop, so no request can come between this and the next line
        self._end_open(FinishReason.FAILED, DEAD)

    def _end_open(self, reason: FinishReason, failure: Failure | None = None) -> None:
        self._deliver([Finished(each, reason, 0, failure=failure) for each in self._open])

    def _publish(self, events: Sequence[Event]) -> None:
        """On the engine thread, once per step."""
        if events and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            opened = self._open.get(event.request_id)
            if opened is None:
                continue
            opened.events.put_nowait(event)  # first of all: whoever waits gets it whatever fails below
            if isinstance(event, Finished):
                del self._open[event.request_id]
                self._account(opened.request.tenant, Amount() - Amount.of([opened.request]))
                self._leases.release(opened.request.mix)
            self._count(opened.request, event)
        if not self._open:
            self._idle.set()

    def _account(self, tenant: str, more: Amount) -> None:
        """Tenants with nothing open are forgotten: there may be many in a server's life."""
        self._open_of[tenant] = self._open_of.get(tenant, Amount()) + more
        if not self._open_of[tenant].requests:
            del self._open_of[tenant]

    def _count(self, request: Request, event: Event) -> None:
        try:
            self._observe(request, event)
        except Exception:  # a metric must not cost the other requests their events
            log.exception("an event of request %s could not be counted", request.id)
