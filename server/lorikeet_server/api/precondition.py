"""If-Match as a compare-and-swap on generations, and Idempotency-Key as a memory of answers."""

from __future__ import annotations

import hashlib
import json
import re
from asyncio import Lock
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.directory import ANY
from lorikeet_adapters.errors import LorikeetError
from lorikeet_server.api.caller import caller_of, view_of
from lorikeet_server.errors import KeyReused, RequestRefused

GENERATION = re.compile(r'"?([0-9a-f]{64})"?')
KEY = re.compile(r"[\x21-\x7e]{1,255}")


def expected_generation(http: Request) -> str | None:
    """What If-Match says the name means: a generation, in quotes or not, or `*`. Raises RequestRefused."""
    given = http.headers.get("if-match")
    if given is None or given.strip() == ANY:
        return None if given is None else ANY
    found = GENERATION.fullmatch(given.strip())
    if found is None:
        raise RequestRefused(
            "If-Match: must be one generation of 64 hexadecimal digits, or *", param="If-Match"
        )
    return found[1]


def idempotency_key(http: Request) -> str | None:
    """Raises RequestRefused."""
    key = http.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise RequestRefused("Idempotency-Key: must be 1 to 255 visible characters", param="Idempotency-Key")
    return key


class Turns:
    """Who sends a key while another's work is done under it waits for the answer that comes of it."""

    def __init__(self) -> None:
        self._locks: defaultdict[tuple[str | None, str], Lock] = defaultdict(Lock)
        self._users: Counter[tuple[str | None, str]] = Counter()

    @asynccontextmanager
    async def of(self, tenant: str | None, key: str) -> AsyncIterator[None]:
        """One at a time, in the order they came."""
        mine = (tenant, key)
        self._users[mine] += 1
        try:
            async with self._locks[mine]:
                yield
        finally:
            self._users[mine] -= 1
            if not self._users[mine]:
                del self._users[mine], self._locks[mine]


async def answered_once(
    http: Request,
    content: object,
    work: Callable[[], Awaitable[tuple[dict[str, Any], int]]],
    lives: Callable[[str], object] | None = None,
) -> Response:
    """Do the work, or under an Idempotency-Key of its tenant's last day give its answer again. Raises KeyReused.

    `content` is what the body asks, as JSON can hold it. Where an answer is worth its id alone, `lives`
    raises a LorikeetError for one deleted since: to tell it again would promise what is not there, to do
    the work again would bring back what somebody has removed.

    Only answers of work that was done are remembered. The answer is written after the work; a kill
    between the two makes a repetition do it again, so the work must bear that.
    """
    key = idempotency_key(http)
    if key is None:
        return JSONResponse(*await work())
    turns: Turns = http.app.state.turns
    async with turns.of(caller_of(http).tenant, key):
        return await _under(key, http, content, work, lives)


async def _under(
    key: str,
    http: Request,
    content: object,
    work: Callable[[], Awaitable[tuple[dict[str, Any], int]]],
    lives: Callable[[str], object] | None,
) -> Response:
    view = view_of(http)
    asked = [
        http.scope["path"],
        http.scope["query_string"].decode("latin-1"),
        http.headers.get("if-match"),
        content,
    ]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    known = await run_in_threadpool(view.answer, key)
    if known is not None:
        if known[0] != digest:
            raise KeyReused("this Idempotency-Key was sent with another request; use a new key")
        answer, status = json.loads(known[1])
        try:
            if lives is not None:
                await run_in_threadpool(lives, answer["id"])
        except LorikeetError:
            raise KeyReused("what this Idempotency-Key made has been deleted since; use a new key") from None
        return JSONResponse(answer, status, {"idempotency-replayed": "true"})
    answer, status = await work()
    await run_in_threadpool(view.remember_answer, key, digest, json.dumps([answer, status]))
    return JSONResponse(answer, status)
