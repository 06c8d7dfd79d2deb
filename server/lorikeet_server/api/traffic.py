"""Outermost, as plain ASGI: which requests were answered with an error, and which clients left early."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorikeet_server.api.envelope import CLIENT_CLOSED
from lorikeet_server.metrics import Metrics


class Traffic:
    """Stands outside the guard, so what that refuses is counted too."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
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
