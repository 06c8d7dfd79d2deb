"""/v1/requests: what was asked and answered, looked through, judged and removed by whoever runs the server."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_server.api.backstage import looked
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.caller import caller_of
from lorikeet_server.api.files import page
from lorikeet_server.api.query import choice_of, number_of, read_query
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestLogOff, RequestRefused
from lorikeet_server.request_log.log import RequestLog
from lorikeet_server.request_log.record import Rating, Record, Selection

PAGE, MOST = 20, 100
MAX_TEXT = 200  # characters to look for
MAX_CORRECTION = 256 << 10  # characters
RATINGS = tuple(map(str, Rating))


class JudgeBody(Body):
    """PATCH /v1/requests/{id}: what is not said stays; a correction of nothing removes it."""

    rating: Literal["up", "down", "none"] | None = None
    correction: str | None = Field(default=None, max_length=MAX_CORRECTION)


async def list_requests(http: Request) -> Response:
    """The newest first; a page ends early where its texts are long."""
    records = log_of(http).records
    query = read_query(http, ("after", "limit", "model", "q", "rating"))
    limit = number_of(query, "limit", PAGE, MOST)
    rating = Rating(choice_of(query, "rating", RATINGS)) if "rating" in query else None
    selection = Selection(None, searched(query.get("q", "")), query.get("model"), rating)
    work = partial(records.some, caller_of(http).tenant, selection, limit, query.get("after"))
    found, has_more = await looked(http, work)
    return JSONResponse(page(list(map(request_object, found)), has_more))


async def retrieve_request(http: Request) -> Response:
    records = log_of(http).records
    found = await looked(http, partial(records.get, http.path_params["id"], caller_of(http).tenant))
    return JSONResponse(request_object(found))


async def judge_request(http: Request) -> Response:
    records = log_of(http).records
    body = await read_body(http, JudgeBody)
    rating = None if body.rating is None else Rating(body.rating)
    work = partial(records.judge, http.path_params["id"], caller_of(http).tenant, rating, body.correction)
    judged = await looked(http, work)
    return JSONResponse(request_object(judged))


async def delete_request(http: Request) -> Response:
    record = http.path_params["id"]
    await looked(http, partial(log_of(http).records.delete, record, caller_of(http).tenant))
    return JSONResponse({"id": record, "object": "request", "deleted": True})


def log_of(http: Request) -> RequestLog:
    """Raises RequestLogOff."""
    services: Services = http.app.state.services
    if services.request_log is None:
        raise RequestLogOff
    return services.request_log


def searched(text: str) -> str:
    """The text to look for. Raises RequestRefused for one that SQLite would cut or take too long over."""
    if len(text) > MAX_TEXT or "\0" in text:
        raise RequestRefused(
            f"q: must be a text of at most {MAX_TEXT} characters, none of them NUL", param="q"
        )
    return text


def request_object(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "request",
        "created": int(record.created),
        "tenant": record.tenant or None,
        "key": record.key or None,
        "route": record.route,
        "model": record.model,
        "mix": [asdict(each) for each in record.mix],
        "messages": record.messages,
        "prompt": record.prompt,
        "answer": record.answer,
        "finish_reason": record.finish_reason,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "total_s": record.total_s,
        "rating": None if record.rating is Rating.NONE else str(record.rating),
        "correction": record.correction or None,
    }
