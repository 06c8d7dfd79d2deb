"""One client's connection: HTTP as uvicorn speaks it over h11, and an end to waiting for the client.

uvicorn waits for ever for the rest of a head, for the rest of a body nobody reads any more, and for a client
to read. A body that a route reads has its own deadline there (`api.pace`), where it can be answered.
"""

from __future__ import annotations

import asyncio
import json
import resource
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0  # from the connection, or the answer before, to the end of a request's head
LINGER_S = (
    30.0  # for the rest of a body whose answer is out: a client that still sends is to see why it was refused
)
READ_S = 60.0  # for a client to read what is written already
HEAD_BYTES = 64 << 10
OTHER_FILES = 256  # that a server has open beside its connections
NO_LIMIT = 1 << 20


def most_connections() -> int:
    """So many that a file can still be opened when all of them are there."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return NO_LIMIT if files == resource.RLIM_INFINITY else max(files - OTHER_FILES, files // 2)


MOST = most_connections()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer to what is not yet a request."""

    status: int
    reason: str
    kind: str
    code: str
    message: str

    @property
    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        again = [("retry-after", "1")] if self.status == HTTPStatus.SERVICE_UNAVAILABLE else []
        length = ("content-length", str(len(self.body)))
        own = ("x-request-id", uuid.uuid4().hex)
        return [("content-type", "application/json"), ("connection", "close"), length, own, *again]


TOO_LATE = Refusal(
    *(408, "Request Timeout", "invalid_request_error", "head_too_slow"),
    "the head of the request did not come in time; send it again",
)
MALFORMED = Refusal(
    *(400, "Bad Request", "invalid_request_error", "malformed_request"),
    "this is no HTTP request that can be read; send one of HTTP/1.1",
)
FULL = Refusal(
    *(503, "Service Unavailable", "server_error", "server_busy"),
    "the server has as many connections as it can hold; try again in a second",
)


class Connection(H11Protocol):
    """A deadline for each thing that the client alone can bring about; none while the server has its turn."""

    _deadline: asyncio.TimerHandle | None = None
    _awaited: tuple[object, ...] = ()  # what `_deadline` is for
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > MOST:
            self._answer(FULL)
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own is text, and fails behind an answer that has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(MALFORMED)
        else:
            self._leave()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await((), 0, self._leave)
        self._stop_reading()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reading is None:
            self._reading = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_reading()
        super().resume_writing()

    def _watch(self) -> None:
        """A request is its cycle's: the head that is awaited after it is another one than that before it."""
        if self.conn.their_state is h11.IDLE:
            self._await((h11.Request, self.cycle), HEAD_S, self._refuse)
        elif self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self._await((h11.EndOfMessage, self.cycle), LINGER_S, self._leave)
        else:
            self._await((), 0, self._leave)

    def _await(self, what: tuple[object, ...], seconds: float, otherwise: Callable[[], None]) -> None:
        """Bytes that come do not move a deadline; only the thing that is awaited ends it."""
        if what == self._awaited:
            return
        self._awaited = what
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, otherwise) if what else None

    def _refuse(self) -> None:
        """A client that has begun a head is told; one that said nothing has asked for nothing."""
        begun, _ = self.conn.trailing_data
        if begun:
            self._answer(TOO_LATE)
        else:
            self._leave()

    def _answer(self, refusal: Refusal) -> None:
        """And leave. h11 lets a server answer before there is a request."""
        if not self.transport.is_closing():
            for event in (
                h11.Response(
                    status_code=refusal.status, headers=refusal.headers, reason=refusal.reason.encode()
                ),
                h11.Data(data=refusal.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self._leave()

    def _leave(self) -> None:
        """What is written may still be read from the kernel's buffer; what is not yet there is given up."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
