"""/v1/adapters: what operators register, change, roll back and remove."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.access import Access
from lorikeet_adapters.arrival import Arrival
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import verdict
from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.names import check_name
from lorikeet_adapters.record import AdapterRecord
from lorikeet_adapters.source import AdapterFiles
from lorikeet_server.api.backstage import checked, deleted
from lorikeet_server.api.body import MANY, Body, read_body
from lorikeet_server.api.caller import view_of
from lorikeet_server.api.precondition import answered_once, expected_generation, idempotency_key
from lorikeet_server.api.query import read_query
from lorikeet_server.api.records import (
    event_object,
    freed_object,
    list_object,
    page_of,
    read_page,
    record_object,
)
from lorikeet_server.api.services import Services
from lorikeet_server.api.sources import (
    RegisterBody,
    TrialBody,
    TrialFields,
    UploadFields,
    opened,
    opened_source,
)
from lorikeet_server.api.uploads import FORM, TAR, media_type
from lorikeet_server.errors import RequestRefused

DELETE_WAIT_S = 30.0


class ActivateBody(Body):
    generation: str = Field(pattern=r"^[0-9a-f]{64}$")


class ChangeBody(Body):
    """What can be said of an adapter without new bytes; absent is unchanged."""

    pinned: bool | None = None
    tenants: list[str] | None = Field(default=None, max_length=MANY)
    metadata: dict[str, Any] | None = None


async def list_adapters(http: Request) -> Response:
    services: Services = http.app.state.services
    return JSONResponse(page_of(http, lambda each: _wire(services, each), view_of(http).records()))


async def retrieve_adapter(http: Request) -> Response:
    services: Services = http.app.state.services
    return _answer(services, view_of(http).record(http.path_params["name"]))


async def register_adapter(http: Request) -> Response:
    """201 with the record; 200 when the same bytes already have this name. With `dry_run`, a verdict."""
    services: Services = http.app.state.services
    if media_type(http) != TAR:
        read_query(http, ("dry_run",))  # a tar's fields stand there, too
    expected = expected_generation(http)
    if _is_dry_run(http):
        idempotency_key(http)  # what is wrong is refused here too
        return JSONResponse(await _try(http, services))
    if media_type(http) in (FORM, TAR):
        async with opened(http, services, UploadFields, RegisterBody) as (fields, files):
            asked = [fields.model_dump(mode="json"), await run_in_threadpool(_digest, files)]
            register = partial(_register, http, fields, files, expected)
            return await answered_once(http, asked, register)
    body = await read_body(http, RegisterBody)

    async def fetch_and_register() -> tuple[dict[str, Any], int]:
        async with opened_source(http, services, body.source) as files:
            return await _register(http, body, files, expected)

    return await answered_once(http, body.model_dump(mode="json"), fetch_and_register)


async def change_adapter(http: Request) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, ChangeBody)
    access, expected = Access.of(body.tenants), expected_generation(http)

    def change() -> AdapterRecord:
        return view_of(http).update(
            http.path_params["name"],
            pinned=body.pinned,
            metadata=body.metadata,
            access=access,
            expected=expected,
        )

    return _answer(services, await run_in_threadpool(change))


async def activate_generation(http: Request) -> Response:
    """Make a name mean a generation that it still has on disk."""
    services: Services = http.app.state.services
    body = await read_body(http, ActivateBody)
    name, expected = http.path_params["name"], expected_generation(http)
    record, _ = await run_in_threadpool(view_of(http).activate, name, body.generation, expected)
    return _answer(services, record)


async def adapter_history(http: Request) -> Response:
    """Everything that happened to a name, the newest first; `after` is the id of an event."""
    limit, after = read_page(http)
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise RequestRefused("after: must be the id of an event", param="after")
    before = None if after is None else int(after)
    found = await run_in_threadpool(view_of(http).history, http.path_params["name"], limit + 1, before)
    return JSONResponse(list_object([event_object(each) for each in found[:limit]], len(found) > limit))


async def delete_adapter(http: Request) -> Response:
    """Waits for running requests, then says how many bytes came free where."""
    name, expected = http.path_params["name"], expected_generation(http)
    freed = await deleted(http, partial(view_of(http).delete, name, DELETE_WAIT_S, expected))
    return JSONResponse(freed_object(name, freed))


async def _register(
    http: Request, fields: UploadFields, files: AdapterFiles, expected: str | None
) -> tuple[dict[str, Any], int]:
    services: Services = http.app.state.services
    register = partial(
        view_of(http).register,
        fields.name,
        files,
        replace=fields.replace,
        expected=expected,
        metadata=fields.metadata,
        pinned=fields.pinned,
        access=Access.of(fields.tenants),
    )
    record, changed = await checked(http, register)
    return _wire(services, record), 201 if changed else 200


async def _try(http: Request, services: Services) -> dict[str, Any]:
    """Would it load, and if not, every reason why."""
    try:
        async with opened(http, services, TrialFields, TrialBody) as (fields, files):
            if fields.name:
                check_name(fields.name)
            facts = await checked(http, partial(view_of(http).judge, files))
    except AdapterRefused as refused:
        return verdict(refused.findings)
    return verdict((), facts.warnings)


def _is_dry_run(http: Request) -> bool:
    given = http.query_params.get("dry_run", "false")
    if given not in ("true", "false"):
        raise RequestRefused("dry_run is true or false", param="dry_run")
    return given == "true"


def _digest(files: AdapterFiles) -> list[str]:
    """Which files an upload brought."""
    assert isinstance(files.weights, Arrival), "a body arrives in a file of the store's"
    return [hashlib.sha256(files.config).hexdigest(), files.weights.seal()]


def _answer(services: Services, record: AdapterRecord) -> Response:
    return JSONResponse(_wire(services, record), headers={"etag": f'"{record.generation}"'})


def _wire(services: Services, record: AdapterRecord) -> dict[str, Any]:
    state = services.stats().adapters.get(record.generation, AdapterState.REGISTERED)
    return record_object(record, services.model.name, state)
