"""Very many streaming clients in one asyncio thread, over plain sockets so that they cost the server's cores little.

Three temperaments: one reads to the end, one leaves half way, one reads slower than the server speaks.
Each asks again until told to stop, and waits as long as `Retry-After` says where it is turned away.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

LEAVES_AFTER = 3  # pieces of a stream
SLOW_BUFFER = 4096  # bytes that wait on a slow reader's side
SLOW_PAUSE_S = 0.25  # between two pieces; the server speaks faster
TURNED_AWAY = (429, 503)
PROMPTS = ("Where is my parcel?", "My lamp from order 51234 is late.", "Hello", "I want my money back.")


class Temperament(StrEnum):
    STAYS = "stays"
    LEAVES = "leaves"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the clients ask for. Of every ten, `leaving` leave half way and `slow` read slowly."""

    names: Sequence[str]
    connections: int
    tokens: int
    leaving: int = 0
    slow: int = 0
    whole: int = 0  # of every ten, those that want the answer in one piece
    pause_s: float = SLOW_PAUSE_S  # of those that read slowly

    def temperament(self, number: int) -> Temperament:
        place = number % 10
        if place < self.leaving:
            return Temperament.LEAVES
        return Temperament.SLOW if place < self.leaving + self.slow else Temperament.STAYS

    def streams(self, number: int) -> bool:
        return number % 10 < 10 - self.whole


@dataclass(slots=True)
class Tally:
    """What came of all requests. `faults` are sentences; a calm server leaves them empty."""

    complete: int = 0
    ended: int = 0  # with an error event, or an error as a whole answer, as a stopping server may
    left: int = 0
    turned_away: int = 0
    pieces: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Head:
    status: int
    fields: dict[str, str]


class Wire:
    """One connection that speaks just enough HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, slow: bool) -> Wire:
        parts = urlsplit(url)
        made = socket.socket()
        if slow:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (parts.hostname, parts.port))
        return cls(*await asyncio.open_connection(sock=made, limit=SLOW_BUFFER if slow else 1 << 20))

    async def ask(self, path: str, body: object) -> Head:
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
        await self._writer.drain()
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines if line)
        return Head(int(first.split()[1]), {name.lower(): value for name, _, value in pairs})

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """The body as the server cut it."""
        if "content-length" in head.fields:
            yield await self._reader.readexactly(int(head.fields["content-length"]))
            return
        while size := int(await self._reader.readline(), 16):
            piece = await self._reader.readexactly(size)
            await self._reader.readexactly(2)
            yield piece
        await self._reader.readexactly(2)

    def close(self) -> None:
        self._writer.transport.abort()


class Crowd:
    """`stop` lets every client end its present request and ask no more."""

    def __init__(self, url: str, plan: Plan, seed: int = 0) -> None:
        self.tally = Tally()
        self._url = url
        self._plan = plan
        self._chance = random.Random(seed)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> Tally:
        await asyncio.gather(*(self._client(number) for number in range(self._plan.connections)))
        return self.tally

    async def _client(self, number: int) -> None:
        slow = self._plan.temperament(number) is Temperament.SLOW
        wire: Wire | None = None
        while not self._stopped.is_set():
            try:
                wire = wire or await Wire.open(self._url, slow)
                if not await self._request(wire, number):
                    wire.close()
                    wire = None
            except (OSError, EOFError, ValueError) as error:
                if wire is not None:
                    wire.close()
                if not (self._stopped.is_set() and isinstance(error, ConnectionRefusedError)):
                    self.tally.faults.append(f"client {number}: {error!r}")
                wire = None
        if wire is not None:
            wire.close()

    async def _request(self, wire: Wire, number: int) -> bool:
        """One request; False when the connection is of no more use."""
        streams = self._plan.streams(number)
        body = {
            "model": self._chance.choice(self._plan.names),
            "prompt": self._chance.choice(PROMPTS),
            "max_tokens": self._plan.tokens,
            "ignore_eos": True,
            "stream": streams,
        }
        head = await wire.ask("/v1/completions", body)
        if head.status in TURNED_AWAY:
            return await self._turned_away(wire, head)
        said = await self._read(wire, head, self._plan.temperament(number))
        if said is not None:
            self._judge(number, head, said, streams)
        if self._plan.temperament(number) is Temperament.SLOW:
            return False  # to the server its connection has been idle since the last byte was sent
        return said is not None and head.fields.get("connection") != "close"

    async def _turned_away(self, wire: Wire, head: Head) -> bool:
        async for _ in wire.pieces(head):
            pass
        self.tally.turned_away += 1
        after = head.fields.get("retry-after", "")
        if not after.isdigit():
            self.tally.faults.append(f"{head.status} with Retry-After {after!r}")
            return False
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), int(after))
        return head.fields.get("connection") != "close"

    async def _read(self, wire: Wire, head: Head, temperament: Temperament) -> bytes | None:
        """The body, or None from a client that left."""
        said, count = bytearray(), 0
        async for piece in wire.pieces(head):
            said += piece
            count += 1
            self.tally.pieces += 1
            if temperament is Temperament.LEAVES and count == LEAVES_AFTER:
                self.tally.left += 1
                return None
            if temperament is Temperament.SLOW:
                await asyncio.sleep(self._plan.pause_s)
        return bytes(said)

    def _judge(self, number: int, head: Head, said: bytes, streams: bool) -> None:
        ending = stream_ending(said) if streams else whole_ending(said)
        if ending == "complete" and head.status == 200:
            self.tally.complete += 1
        elif ending == "error":
            self.tally.ended += 1
        else:
            self.tally.faults.append(f"client {number}: {head.status} {ending} {said[-200:]!r}")


def stream_ending(said: bytes) -> str:
    """`complete`, `error` or `truncated`; raises ValueError where it is no stream of ours."""
    events = [each.removeprefix(b"data: ") for each in said.split(b"\n\n") if each]
    if events and events[-1] == b"[DONE]":
        reasons = [choice["finish_reason"] for each in events[:-1] for choice in json.loads(each)["choices"]]
        return "complete" if sum(map(bool, reasons)) == 1 else "no one finish_reason"
    return "error" if events and "error" in json.loads(events[-1]) else "truncated"


def whole_ending(said: bytes) -> str:
    answer = json.loads(said)
    if "error" in answer:
        return "error"
    return "complete" if answer["choices"][0]["finish_reason"] else "no finish_reason"


def run_crowd(url: str, plan: Plan, seconds: float, watch: Callable[[float], None] = lambda _: None) -> Tally:
    """Ask for so long, then until every request has ended. `watch` is told the seconds gone, about once each second."""

    async def main() -> Tally:
        crowd = Crowd(url, plan)
        running = asyncio.create_task(crowd.run())
        began = time.monotonic()
        while (gone := time.monotonic() - began) < seconds:
            watch(gone)
            await asyncio.wait({running}, timeout=1.0)
        crowd.stop()
        return await running

    return asyncio.run(main())
