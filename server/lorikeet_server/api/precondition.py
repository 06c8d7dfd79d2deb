"""If-Match as a compare-and-swap on generations, and Idempotency-Key as a memory of answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.directory import ANY
from lorikeet_server.api.caller import view_of
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


async def answered_once(
    http: Request, content: object, work: Callable[[], Awaitable[tuple[dict[str, Any], int]]]
) -> Response:
    """Do the work, or under an Idempotency-Key of its tenant's last day give its answer again. Raises KeyReused.

    `content` is what the body asks, as JSON can hold it.

    Only answers of work that was done are remembered. The answer is written after the work; a kill
    between the two makes a repetition do it again, so the work must bear that.
    """
    key = idempotency_key(http)
    if key is None:
        return JSONResponse(*await work())
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
        return JSONResponse(answer, status, {"idempotency-replayed": "true"})
    answer, status = await work()
    await run_in_threadpool(view.remember_answer, key, digest, json.dumps([answer, status]))
    return JSONResponse(answer, status)
