"""One replica: the engine and the application of `lorikeet serve`, called through Ray Serve and not a port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from starlette.types import Message, Scope

from lorikeet_server.api import access_log
from lorikeet_server.cluster.call import Call, Part
from lorikeet_server.cluster.registry import RayOwner
from lorikeet_server.config import ServerConfig

log = logging.getLogger("lorikeet")


class Replica:
    """What Serve starts as a deployment. `config` as read from the command line; the registry is the owner's."""

    def __init__(self, config: ServerConfig) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
        log.setLevel(logging.INFO)
        access_log.switch(config.http.access_log)
        from lorikeet_server.cluster.home import open_home  # torch, which the door does without

        self._name = serve.get_replica_context().replica_id.unique_id
        self._home = open_home(config, RayOwner())
        self._home.start()

    async def answer(self, call: Call) -> AsyncIterator[Part]:
        """Runs the application on one request; its messages as they come, several at once where they do.

        First an empty part: the request is here.
        """
        yield Part(self._name, (), False)
        exchange = _Exchange(call)
        running = asyncio.ensure_future(self._home.app(exchange.scope, exchange.receive, exchange.send))
        running.add_done_callback(lambda _: exchange.end())
        try:
            async for messages in exchange.sent():
                yield Part(self._name, messages, exchange.has_begun)
            await running
        finally:
            exchange.leave()
            if not running.done():
                running.cancel()

    async def scrape(self, call: Call) -> tuple[str, bytes]:
        """(this replica's name, its metrics as text)."""
        plain = {**call.scope, "headers": [each for each in call.scope["headers"] if each[0] != b"accept"]}
        body = bytearray()
        async for part in self.answer(Call(plain, (), "")):
            body += b"".join(each.get("body", b"") for each in part.messages)
        return self._name, bytes(body)

    async def drain(self, seconds: float) -> None:
        """Take nothing new; what still runs after so long is ended, each request with its terminal answer."""
        await self._home.drain(seconds)

    def base_name(self) -> str:
        return self._home.base_name

    def check_health(self) -> None:
        """Serve replaces a replica whose engine has stopped."""
        if not self._home.is_alive:
            raise RuntimeError("the engine has stopped after an internal error")

    async def __del__(self) -> None:
        """Serve has waited for the requests that ran."""
        if hasattr(self, "_home"):
            await self._home.close()


class _Exchange:
    """One request on one side, what the application sends on the other."""

    def __init__(self, call: Call) -> None:
        self.scope: Scope = {**call.scope, "type": "http", "asgi": {"version": "3.0"}, "root_path": ""}
        self._body = list(call.body) or [b""]
        self._left = asyncio.Event()
        self._outbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._is_complete = False

    async def receive(self) -> Message:
        if self._body:
            piece: Any = self._body.pop(0)
            body = piece if isinstance(piece, bytes) else await piece
            return {"type": "http.request", "body": body, "more_body": bool(self._body)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._is_complete = self._is_complete or ends
        self._outbox.put_nowait(message)

    async def sent(self) -> AsyncIterator[tuple[Message, ...]]:
        """Each time everything that has come; ends with the application."""
        ended = False
        while not ended:
            messages = [await self._outbox.get()]
            while not self._outbox.empty():
                messages.append(self._outbox.get_nowait())
            ended = messages[-1] is None
            if told := tuple(each for each in messages if each is not None):
                yield told

    def end(self) -> None:
        self._outbox.put_nowait(None)

    def leave(self) -> None:
        self._left.set()

    @property
    def has_begun(self) -> bool:
        """Whether what is sent now can no longer be another replica's: a token was generated, or it is all there."""
        entry = self.scope.get("entry")
        return self._is_complete or (entry is not None and entry.completion_tokens > 0)
