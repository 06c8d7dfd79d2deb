"""How slowly a body may come, as plain ASGI: a client that drips bytes must not hold what it was given."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorikeet_server.errors import BodyTooSlow

PATIENCE_S = 30.0
RATE = 16 << 10  # bytes a second


class Pace:
    """Every body, on every route; a route that reads one gets BodyTooSlow raised where it waits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, Paced(receive) if scope["type"] == "http" else receive, send)


class Paced:
    """The time spent waiting for a client uses its patience up, and bytes bring it back, up to the whole of it.

    So a body of any size may come at RATE, a small one in PATIENCE_S, and one that began fast has saved
    nothing up. Only the waiting counts: while the server writes what came, the client cannot send.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._patience = PATIENCE_S
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:  # what comes now is the client's leaving
            return await self._receive()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(
                f"for {PATIENCE_S:g} s the body came slower than {RATE >> 10} KiB/s; send it again"
            ) from None
        left = self._patience - (loop.time() - begun) + len(message.get("body", b"")) / RATE
        self._patience = min(PATIENCE_S, max(left, 0.0))
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message
