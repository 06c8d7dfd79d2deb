"""/v1/aliases: names that send requests to adapters, in shares where there are several."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.alias import MAX_TARGETS, MAX_WEIGHT
from lorikeet_adapters.stored import Target
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.records import alias_object, page_of
from lorikeet_server.api.services import Services

EVENTS_SHOWN = 100


class TargetBody(Body):
    name: str
    generation: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    weight: float = Field(default=1.0, ge=0, le=MAX_WEIGHT, allow_inf_nan=False)


class AliasBody(Body):
    targets: list[TargetBody] = Field(min_length=1, max_length=MAX_TARGETS)


async def list_aliases(http: Request) -> Response:
    """Without their histories."""
    services: Services = http.app.state.services
    return JSONResponse(page_of(http, alias_object, services.registry.aliases()))


async def retrieve_alias(http: Request) -> Response:
    services: Services = http.app.state.services
    return await _answer(services, http.path_params["name"])


async def put_alias(http: Request) -> Response:
    """201 for a new alias, 200 for one that was there."""
    services: Services = http.app.state.services
    body = await read_body(http, AliasBody)
    targets = tuple(Target(each.name, each.generation, each.weight) for each in body.targets)
    alias, new = await run_in_threadpool(services.registry.put_alias, http.path_params["name"], targets)
    return await _answer(services, alias.name, 201 if new else 200)


async def delete_alias(http: Request) -> Response:
    """Running requests go on: they have their generations."""
    services: Services = http.app.state.services
    name = http.path_params["name"]
    await run_in_threadpool(services.registry.delete_alias, name)
    return JSONResponse({"object": "alias", "id": name, "deleted": True})


async def _answer(services: Services, name: str, status: int = 200) -> Response:
    alias = services.registry.alias(name)
    history = await run_in_threadpool(services.registry.history, name, EVENTS_SHOWN)
    return JSONResponse(alias_object(alias, history), status)
