"""/v1/aliases: names that send requests to adapters, in shares where there are several."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.alias import MAX_TARGETS, MAX_WEIGHT
from lorikeet_adapters.stored import Target
from lorikeet_server.api.blame import blaming
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.caller import view_of
from lorikeet_server.api.records import alias_object, page_of

EVENTS_SHOWN = 100


class TargetBody(Body):
    name: str
    generation: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    weight: float = Field(default=1.0, ge=0, le=MAX_WEIGHT, allow_inf_nan=False)


class AliasBody(Body):
    targets: list[TargetBody] = Field(min_length=1, max_length=MAX_TARGETS)


async def list_aliases(http: Request) -> Response:
    """Without their histories."""
    return JSONResponse(page_of(http, alias_object, view_of(http).aliases()))


async def retrieve_alias(http: Request) -> Response:
    return await _answer(http, http.path_params["name"])


async def put_alias(http: Request) -> Response:
    """201 for a new alias, 200 for one that was there."""
    body = await read_body(http, AliasBody)
    targets = tuple(Target(each.name, each.generation, each.weight) for each in body.targets)
    with blaming("targets"):
        alias, new = await run_in_threadpool(view_of(http).put_alias, http.path_params["name"], targets)
    return await _answer(http, alias.name, 201 if new else 200)


async def delete_alias(http: Request) -> Response:
    """Running requests go on: they have their generations."""
    name = http.path_params["name"]
    await run_in_threadpool(view_of(http).delete_alias, name)
    return JSONResponse({"object": "alias", "id": name, "deleted": True})


async def _answer(http: Request, name: str, status: int = 200) -> Response:
    alias = view_of(http).alias(name)
    history = await run_in_threadpool(view_of(http).history, name, EVENTS_SHOWN)
    return JSONResponse(alias_object(alias, history), status)
