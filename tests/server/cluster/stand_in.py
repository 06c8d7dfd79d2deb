"""Replicas that do as they are told, for a door without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message

from lorikeet_server.cluster.call import Call, Part, ReplicaGone

STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]


@dataclass(frozen=True)
class Dies:
    """In place of a message: the replica is gone."""


@dataclass(frozen=True)
class Begins:
    """In place of a message: from here on tokens are generated."""


@dataclass
class Engines:
    """Each script is one replica's answer; the requests get them in their order."""

    scripts: Sequence[Sequence[Any]]
    calls: list[Call] = field(default_factory=list)
    put_pieces: list[bytes] = field(default_factory=list)
    closed: int = 0
    is_away: bool = False  # no replica takes anything

    async def send(self, call: Call) -> AsyncIterator[Part]:
        self.calls.append(call)
        begun = False
        try:
            if self.is_away:
                await asyncio.sleep(3600)
            yield Part("replica", (), False)
            for step in self.scripts[len(self.calls) - 1]:
                if isinstance(step, Dies):
                    raise ReplicaGone("killed")
                begun = begun or isinstance(step, Begins)
                if isinstance(step, dict):
                    ends = step["type"] == "http.response.body" and not step.get("more_body", False)
                    yield Part("replica", (step,), begun or ends)
        finally:
            self.closed += 1

    async def put(self, piece: bytes) -> Any:
        self.put_pieces.append(piece)
        return ("put", len(self.put_pieces) - 1)

    async def scrape(self, call: Call) -> dict[str, bytes]:
        return {}


def start(status: int = 200, headers: Sequence[tuple[bytes, bytes]] = JSON) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
