"""Clients that keep a server waiting, over real sockets: each is cut off in time, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from lorikeet_server import connection
from lorikeet_server.api import pace
from lorikeet_server.api.envelope import on_error
from lorikeet_server.api.pace import Pace
from lorikeet_server.connection import Connection
from lorikeet_server.drain import _Http, settings
from lorikeet_server.errors import BodyTooSlow

pytestmark = pytest.mark.safety("security 10")

HEAD = b"POST /count HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
LONG = 20.0  # no deadline here is as long; a test that waits for it has failed
Scenario = Callable[["Site"], Awaitable[None]]


class Site:
    """A server in this loop, whose routes do what clients of ours can meet."""

    def __init__(self) -> None:
        self.port = 0
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()

    async def count(self, http: Request) -> Response:
        return PlainTextResponse(str(len(await http.body())))

    async def refuse(self, http: Request) -> Response:
        return PlainTextResponse("no", 403)  # without a look at the body

    async def wait(self, http: Request) -> Response:
        await self.go_on.wait()
        return PlainTextResponse("done")

    async def pour(self, http: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1 << 16)
                    await asyncio.sleep(0)  # as a stream of ours waits for its next token
            finally:
                self.left.set()

        return StreamingResponse(pieces())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    for module, name in ((connection, "HEAD_S"), (connection, "LINGER_S"), (connection, "READ_S")):
        monkeypatch.setattr(module, name, 0.25)
    monkeypatch.setattr(pace, "PATIENCE_S", 0.25)

    async def run(scenario: Scenario) -> None:
        site = Site()
        routes = [Route(f"/{each}", getattr(site, each), methods=["POST"]) for each in ("count", "refuse")]
        routes += [Route(f"/{each}", getattr(site, each)) for each in ("wait", "pour")]
        app = Starlette(routes=routes, exception_handlers={BodyTooSlow: on_error})
        app.add_middleware(Pace)
        server = _Http(settings(app))
        listening = asyncio.create_task(server.serve([listener_of(site)]))
        while not server.started:
            await asyncio.sleep(0)
        try:
            await asyncio.wait_for(scenario(site), LONG)
        finally:
            server.should_exit = True
            await listening

    return lambda scenario: asyncio.run(run(scenario))


def listener_of(site: Site) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    site.port = listener.getsockname()[1]
    return listener


@pytest.mark.parametrize(
    "head",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 70_000],
)
def test_what_is_no_request_is_refused_like_everything_else(
    play: Callable[[Scenario], None], head: bytes
) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            writer.write(head)
            answer = await said(reader)
        first, _, body = answer.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 400 ")
        assert b"application/json" in first
        assert json.loads(body)["error"]["code"] == "malformed_request"

    play(scenario)


async def drip(writer: StreamWriter, what: bytes) -> None:
    """A byte now and then, for as long as anybody listens."""
    while not writer.is_closing():
        writer.write(what)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def dripping(writer: StreamWriter, what: bytes) -> AsyncIterator[None]:
    task = asyncio.create_task(drip(writer, what))
    try:
        yield
    finally:
        task.cancel()


async def said(reader: StreamReader) -> bytes:
    """Everything until the connection ends, by whatever end."""
    heard = b""
    while True:
        try:
            piece = await reader.read(1 << 16)
        except ConnectionError:
            return heard
        if not piece:
            return heard
        heard += piece


def test_this_is_how_the_server_listens() -> None:
    made = settings(Starlette())
    made.load()
    assert made.http_protocol_class is Connection
    assert made.h11_max_incomplete_event_size == connection.HEAD_BYTES
    assert made.ws_protocol_class is None


def test_a_head_that_drips_is_408_by_its_deadline(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            writer.write(HEAD)
            async with dripping(writer, b"x"):
                answer = await said(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "head_too_slow"' in answer
        assert re.search(rb"x-request-id: [0-9a-f]{32}\r\n", answer)

    play(scenario)


def test_who_says_nothing_is_told_nothing(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, _):
            assert await said(reader) == b""

    play(scenario)


def test_the_next_request_of_a_connection_has_a_deadline_of_its_own(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            for _ in range(3):
                writer.write(HEAD + b"content-length: 2\r\n\r\n{}")
                assert b" 200 " in await reader.readuntil(b"\r\n\r\n2")
            async with dripping(writer, b"x"):
                assert b" 408 " in await said(reader)

    play(scenario)


@pytest.mark.parametrize(
    ("framing", "what"),
    [
        (b"content-length: 1000000\r\n\r\n", b" "),
        (b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"transfer-encoding: chunked\r\n\r\n5;x=", b"y"),
        (b"transfer-encoding: chunked\r\n\r\n1\r\n \r\n0\r\nx: ", b"y"),
    ],
    ids=["a length", "chunks", "the head of a chunk", "trailers"],
)
def test_a_body_that_drips_is_408_and_the_connection_ends(
    play: Callable[[Scenario], None], framing: bytes, what: bytes
) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            writer.write(HEAD + framing)
            async with dripping(writer, what):
                answer = await said(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"body_too_slow"' in answer

    play(scenario)


def test_what_began_fast_has_saved_nothing_up(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            writer.write(HEAD + b"content-length: 100000000\r\n\r\n" + bytes(4 << 20))
            await writer.drain()
            async with dripping(writer, b" "):
                assert b" 408 " in await said(reader)

    play(scenario)


def test_a_slow_body_at_the_rate_comes_through(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times as long as the patience with silence, at a rate far below what is sent."""
    monkeypatch.setattr(pace, "RATE", 100)

    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            writer.write(HEAD + b"content-length: 2000\r\n\r\n")
            for _ in range(20):
                writer.write(bytes(100))
                await asyncio.sleep(0.05)
            assert b" 200 " in await reader.readuntil(b"2000")

    play(scenario)


def test_the_rest_of_a_refused_body_is_not_waited_for(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            writer.write(HEAD.replace(b"count", b"refuse") + b"content-length: 1000000\r\n\r\n")
            async with dripping(writer, b" "):
                assert b" 403 " in await said(reader)

    play(scenario)


def test_while_the_server_has_its_turn_there_is_no_deadline(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            writer.write(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.sleep(3 * connection.HEAD_S)
            site.go_on.set()
            assert b" 200 " in await reader.readuntil(b"done")

    play(scenario)


def test_a_client_that_does_not_read_has_left(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async with site.client() as (reader, writer):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /pour HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await site.left.wait()

    play(scenario)


def test_two_hundred_that_drip_keep_nobody_waiting(play: Callable[[Scenario], None]) -> None:
    async def scenario(site: Site) -> None:
        async def slow() -> bytes:
            async with site.client() as (reader, writer):
                writer.write(HEAD)
                async with dripping(writer, b"x"):
                    return await said(reader)

        many = [asyncio.create_task(slow()) for _ in range(200)]
        async with site.client() as (reader, writer):
            writer.write(HEAD + b"content-length: 2\r\n\r\n{}")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n2")
        assert {answer[:12] for answer in await asyncio.gather(*many)} == {b"HTTP/1.1 408"}

    play(scenario)


@pytest.mark.safety("reliability 3")
def test_one_connection_too_many_is_told_so_and_nobody_else_notices(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST", 2)

    async def scenario(site: Site) -> None:
        async with site.client() as (first, writer), site.client() as (second, _):
            async with site.client() as (third, _):
                answer = await said(third)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer.lower()
            assert b'"code": "server_busy"' in answer
            writer.write(HEAD + b"content-length: 2\r\n\r\n{}")
            assert b" 200 " in await first.readuntil(b"\r\n\r\n2")
            assert not second.at_eof()
        while not await is_served(site):  # until the server has seen them leave
            await asyncio.sleep(0.01)

    play(scenario)


async def is_served(site: Site) -> bool:
    async with site.client() as (reader, writer):
        writer.write(HEAD + b"content-length: 2\r\nconnection: close\r\n\r\n{}")
        return b" 200 " in await said(reader)


@pytest.mark.parametrize(("files", "connections"), [(1024, 768), (300, 150), (65536, 65280)])
def test_connections_leave_files_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (files, files))
    assert connection.most_connections() == connections
