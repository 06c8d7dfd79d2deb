"""What happened to a job: pages of events, or a stream of them that lasts until the job is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_server.api import sse
from lorikeet_server.api.access_log import entry_of
from lorikeet_server.api.envelope import openai_envelope
from lorikeet_server.api.files import page
from lorikeet_server.api.job_records import event_id, event_number, event_object
from lorikeet_server.api.jobs import MOST, PAGE, job_of
from lorikeet_server.api.query import choice_of, number_of, read_query
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestRefused

LAST_SEEN = "Last-Event-ID"
KEEP_ALIVE_S = 15.0
LATEST = 2**63 - 1


async def list_events(http: Request) -> Response:
    """The newest first; as a stream the oldest first, from after `Last-Event-ID` on."""
    services: Services = http.app.state.services
    query = read_query(http, ("after", "limit", "stream"))
    limit = number_of(query, "limit", PAGE, MOST)
    job = await job_of(http)
    if choice_of(query, "stream", ("false", "true")) == "true":
        seen = http.headers.get(LAST_SEEN)
        start = 0 if seen is None else _number(seen, LAST_SEEN)
        return sse.stream(_told(services, job.id, start), openai_envelope, {}, entry_of(http))
    before = _number(query["after"], "after") if "after" in query else LATEST
    found = await run_in_threadpool(services.jobs.ledger.events, job.id, limit + 1, before)
    return JSONResponse(page(list(map(event_object, found[:limit])), len(found) > limit))


async def _told(services: Services, job: str, seen: int) -> AsyncIterator[str]:
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def ring() -> None:
        with suppress(RuntimeError):  # the loop of a server that has stopped
            loop.call_soon_threadsafe(changed.set)

    ledger = services.jobs.ledger
    with services.jobs.heard_by(job, ring):
        while True:
            changed.clear()
            is_over = (
                await run_in_threadpool(ledger.get, job, None)
            ).is_over  # before the last events are read
            for each in reversed(await run_in_threadpool(ledger.events, job, after=seen)):
                yield f"id: {event_id(each.id)}\n{sse.data(event_object(each))}"
                seen = each.id
            if is_over or services.requests.draining:
                break
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await changed.wait()
            except TimeoutError:
                yield ": the job goes on\n\n"
    yield sse.DONE


def _number(text: str, field: str) -> int:
    found = event_number(text)
    if found is None:
        raise RequestRefused(f"{field}: {text[:40]!r} is no event's id", param=field)
    return found
