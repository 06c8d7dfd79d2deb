"""Who is turned away before anything of a body is read, as plain ASGI: a full server has little time for that."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from lorikeet_server.api.gate import METRICS, OPEN, VLLM_METRICS, template
from lorikeet_server.api.services import Requests
from lorikeet_server.errors import ServerBusy

BESIDE = 256  # the open requests: bodies on their way in, refusals on their way out, lists, uploads, events of jobs
ALWAYS = OPEN | {METRICS, VLLM_METRICS}  # a full server is still seen to live
GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/", "/generate", "/generate_stream"})


class Lobby:
    """What waits in the engine is bounded there; this bounds what has not come so far, and the memory it takes."""

    def __init__(self, app: ASGIApp, *, requests: Requests, open_requests: int) -> None:
        self._app = app
        self._requests = requests
        self._most = open_requests + BESIDE
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = template(scope) if scope["type"] == "http" else ""
        if not route or route in ALWAYS:
            await self._app(scope, receive, send)
            return
        if self._inside >= self._most:
            raise ServerBusy(f"{self._inside} requests are being read or answered; try again in a second")
        if route in GENERATING and self._requests.is_full:
            raise ServerBusy(
                "as many requests as the server takes are waiting or running; try again in a second"
            )
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
