"""Listening until a signal says stop, and stopping so that every client gets its answer.

first signal   nothing new is taken (503 `draining`); what runs may finish
deadline       or a second signal: what still runs is ended, each request with its terminal answer
then           the port is closed, answers on their way out get a moment, the process ends with 0
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from lorikeet_server.bridge import Bridge
from lorikeet_server.connection import HEAD_BYTES, Connection

log = logging.getLogger("lorikeet")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
FLUSH_S = 5.0  # for clients that are slow to read what is already written


class _Http(uvicorn.Server):
    """uvicorn without its own signals: on the second one it leaves without the application's shutdown."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def serve_until_stopped(app: Starlette, listener: socket.socket, bridge: Bridge, seconds: float) -> None:
    """Blocks until SIGTERM or SIGINT has come and every request has been answered."""
    asyncio.run(_serve(_Http(settings(app)), listener, bridge, seconds))
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # the process is about to end by itself, with 0


def settings(app: Starlette) -> uvicorn.Config:
    """h11 and nothing else: httptools, which uvicorn prefers where it is installed, bounds no head."""
    return uvicorn.Config(
        app,
        http=Connection,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws="none",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
    )


async def _serve(http: _Http, listener: socket.socket, bridge: Bridge, seconds: float) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    for each in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(each, signalled)
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    serving.add_done_callback(lambda _: stop.set())
    await stop.wait()
    if not serving.done():
        await _drain(bridge, seconds, hurry)
        http.should_exit = True
        await asyncio.wait({serving}, timeout=FLUSH_S)
        for connection in list(http.server_state.connections):
            connection.transport.abort()  # to the application, a client that has left
    await serving


async def _drain(bridge: Bridge, seconds: float, hurry: asyncio.Event) -> None:
    running = bridge.drain()
    log.info("stopping: waiting up to %g s for %d requests; a second signal ends them", seconds, running)
    ways = {asyncio.create_task(each) for each in (bridge.idle(), hurry.wait())}
    await asyncio.wait(ways, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for each in ways:
        each.cancel()
    if left := bridge.drain():
        log.warning("stopping: %d requests are ended before they are complete", left)
    await bridge.stop()
