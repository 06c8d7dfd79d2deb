"""An answer on its way to the client, or kept to be looked at first."""

from __future__ import annotations

from starlette.types import Message, Send


class Answer:
    """Where the answer goes, and how far it has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_open = False
        self.is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_open = True
            kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self.is_stream = any(each.startswith(b"text/event-stream") for each in kinds)
        await self._send(message)


class Kept:
    """An answer that is looked at first."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def take(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages)
