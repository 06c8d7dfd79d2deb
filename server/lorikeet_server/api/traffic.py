"""Outermost, as plain ASGI: every answer's id, which were errors, and which clients left early."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorikeet_server.api.envelope import CLIENT_CLOSED
from lorikeet_server.metrics import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Traffic:
    """Stands outside the guard, so what that refuses is counted too, and preflights have an id.

    The id is the client's own `x-request-id` where that can stand in a log.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope["request_id"] = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        complete = left = False

        async def watched() -> Message:
            nonlocal left
            message = await receive()
            # Once the answer is complete, the server says `disconnect` of a client that stays, too.
            left = left or (message["type"] == "http.disconnect" and not complete)
            return message

        async def counted(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = scope["request_id"]
                status = message["status"]
                if status >= 400 and status != CLIENT_CLOSED:
                    self._metrics.reject(status)
            elif message["type"] == "http.response.body":
                complete = complete or not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, watched, counted)
        finally:
            if left:
                self._metrics.disconnects.inc()
