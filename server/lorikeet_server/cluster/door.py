"""The one address of all replicas: reads a request, has a replica answer it, and bears a replica's end.

What has not begun is asked of another replica, and the client learns nothing of it. A stream that has begun
ends with an error event in the form of its route: tokens already sent cannot be taken back, and another
replica would number its own from the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from lorikeet_adapters.errors import LorikeetError
from lorikeet_server.api import sse
from lorikeet_server.api.app import ROUTES
from lorikeet_server.api.envelope import NATIVE_PATHS, native_envelope, on_error, openai_envelope
from lorikeet_server.api.gate import OPEN, Gate
from lorikeet_server.api.pace import Paced
from lorikeet_server.cluster.answer import Answer, Kept
from lorikeet_server.cluster.body import Body
from lorikeet_server.cluster.call import LOCAL_ONLY, SCRAPED, Call, Engines, Part, ReplicaGone, adapter_of
from lorikeet_server.cluster.exposition import merged
from lorikeet_server.cluster.tally import Tally
from lorikeet_server.config import is_loopback
from lorikeet_server.errors import (
    BodyTooLarge,
    GenerationFailed,
    HostForbidden,
    NotAcrossReplicas,
    ReplicaLost,
    ServerBusy,
)

log = logging.getLogger("lorikeet")
ATTEMPTS = 4
TAKEN_S = 30.0  # for a replica to take a request; how long it waits there is the replica's own bound
ALIVE_S = 2.0  # the same for the routes that ask who lives
SCRAPED_S = 5.0
UNKNOWN = "unknown"
MOST_HELD = 512 << 20  # bytes of all bodies together
UPLOADS = "/v1/adapters"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a body, in bytes; and whether only this machine may ask, as no key protects the replicas.

    A proxy of Ray's may listen where others reach it, whatever was said to us.
    """

    body: int
    upload: int
    local_only: bool


class Door:
    """`base_name` is the base's own name, which is no adapter; `gate` turns away before a body is read."""

    def __init__(self, engines: Engines, base_name: str, bounds: Bounds, gate: Gate) -> None:
        self._engines = engines
        self._base_name = base_name
        self._bounds = bounds
        self._gate = gate
        self._held = 0  # bytes of bodies
        self.tally = Tally()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application; whatever fails here is answered in the route's own envelope."""
        answer = Answer(send)
        scope["app"] = _ROUTED
        try:
            _check_client(scope, self._bounds)
            if scope["method"] != "OPTIONS":  # a preflight has no key; the replica knows who may ask
                self._gate.admit(scope, Headers(scope=scope))
            _check_shared(scope["path"])
            await self._pass_on(scope, receive, answer)
        except Exception as error:
            await _tell(error, scope, receive, answer)

    async def _pass_on(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        body = Body(self._engines)
        try:
            await self._read(scope, receive, body)
            adapter = "" if body.put else adapter_of(scope["path"], bytes(body.last), self._base_name)
            call = Call.of(scope, body.pieces, adapter)
            if call.path in SCRAPED and call.scope["method"] == "GET":
                await self._scrape(call, scope, receive, answer)
            else:
                await self._relay(call, answer)
        finally:
            self._held -= body.held

    async def _read(self, scope: Scope, receive: Receive, body: Body) -> None:
        """The whole of it, as nothing can be asked twice of a stream; most of a large one is not held here."""
        most = self._bounds.upload if scope["path"] == UPLOADS else self._bounds.body
        async for chunk in Request(scope, Paced(receive)).stream():
            if body.size + len(chunk) > most:
                raise BodyTooLarge(f"the body is over {most} bytes, the most that is taken")
            self._held += await body.add(chunk)
            if self._held > MOST_HELD:
                raise ServerBusy(
                    "the bodies that are being read take all their memory; try again in a second"
                )

    async def _relay(self, call: Call, answer: Answer) -> None:
        for _ in range(ATTEMPTS):
            try:
                await self._once(call, answer)
                return
            except ReplicaGone as error:
                log.warning("%s: its replica is gone (%s)", call.path, error)
                if answer.is_open or not call.is_repeatable:
                    break
                self.tally.retried.inc()
        self.tally.lost.inc()
        raise ReplicaLost(
            "the replica that was answering is gone; "
            + ("send it again" if call.is_repeatable else "look whether it was done before you send it again")
        )

    async def _once(self, call: Call, answer: Answer) -> None:
        """Nothing goes out before a token is generated or the answer complete: until then it can be another's."""
        held: list[Message] = []
        async with aclosing(_closing(self._engines.send(call))) as parts:
            first = await _soon(parts, ALIVE_S if call.path in OPEN else TAKEN_S)
            self.tally.answered(call.adapter, first.replica)
            async for part in parts:
                held += part.messages
                if part.begun or answer.is_open:
                    for message in held:
                        await answer.send(message)
                    held = []

    async def _scrape(self, call: Call, scope: Scope, receive: Receive, answer: Answer) -> None:
        """One replica first, as any request: its gate says whether this caller may see the others', too."""
        first = Kept()
        try:
            async with asyncio.timeout(SCRAPED_S):
                await self._relay(call, Answer(first.take))
        except TimeoutError:
            raise ServerBusy(f"no replica answered the scrape within {SCRAPED_S:g} s") from None
        if first.status != 200:
            for message in first.messages:
                await answer.send(message)
            return
        texts = await self._engines.scrape(call)
        body = merged(texts or {UNKNOWN: first.body}) + self.tally.text()
        response = Response(body, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
        await response(scope, receive, answer.send)


class _Routed:
    """The routes alone, by which the gate knows what a path needs."""

    routes = ROUTES


_ROUTED = _Routed()


async def _closing(parts: AsyncIterator[Any]) -> Any:
    """The same, as a generator that can be closed."""
    async for part in parts:
        yield part


async def _soon(parts: AsyncIterator[Part], seconds: float) -> Part:
    """The first part. Raises ServerBusy where no replica takes the request, be it that there is none."""
    try:
        async with asyncio.timeout(seconds):
            return await anext(parts)
    except TimeoutError:
        raise ServerBusy(f"no replica took the request within {seconds:g} s; try again in a second") from None


async def _tell(error: Exception, scope: Scope, receive: Receive, answer: Answer) -> None:
    """As a whole answer, or inside the stream that has begun."""
    if not answer.is_open:
        response = await on_error(Request(scope), error)
        await response(scope, receive, answer.send)
    elif answer.is_stream:
        known = error if isinstance(error, LorikeetError) else GenerationFailed("the stream broke")
        if known is not error:
            log.error("a stream broke", exc_info=error)
        envelope = native_envelope if scope["path"] in NATIVE_PATHS else openai_envelope
        last = sse.data(envelope(known)).encode()
        await answer.send({"type": "http.response.body", "body": last, "more_body": False})
    else:
        raise error  # half an answer: whoever carries it breaks the connection


def _check_client(scope: Scope, bounds: Bounds) -> None:
    address = (scope.get("client") or ("",))[0]
    if bounds.local_only and not is_loopback(address):
        raise HostForbidden(
            "without keys this server answers only to the machine it runs on; start it with --api-keys"
        )


def _check_shared(path: str) -> None:
    if path.startswith(LOCAL_ONLY):
        raise NotAcrossReplicas(
            f"{path} belongs to one server's data folder and is not served by several replicas; train with "
            "`lorikeet train` or on a single server, then register the adapter here"
        )
