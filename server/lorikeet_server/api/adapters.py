"""GET, POST and DELETE /v1/adapters: what operators register."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import verdict
from lorikeet_adapters.hub import fetching
from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.names import check_name
from lorikeet_adapters.registry import AdapterRecord
from lorikeet_adapters.source import AdapterFiles, confine, open_folder
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.run import unless_gone
from lorikeet_server.api.services import Services
from lorikeet_server.api.uploads import FORM, TAR, media_type, one_of_few, received, threaded
from lorikeet_server.errors import RequestRefused

DELETE_WAIT_S = 30.0
TIERS = {AdapterState.HOST: "host", AdapterState.DEVICE: "device"}


class LocalSource(Body):
    """A PEFT folder below the server's adapters root."""

    type: Literal["local"]
    path: str = Field(min_length=1, max_length=4096)


class HubSource(Body):
    """A repository on the operator's hub."""

    type: Literal["hub"]
    repo: str = Field(min_length=1, max_length=256)
    revision: str = Field("main", min_length=1, max_length=256)


Source: TypeAlias = Annotated[LocalSource | HubSource, Field(discriminator="type")]


class UploadFields(Body):
    """What is said of an adapter, wherever its files come from."""

    name: str
    replace: bool = False
    metadata: dict[str, Any] | None = None


class RegisterBody(UploadFields):
    KINDS = frozenset({"local", "hub"})
    source: Source


class TrialFields(UploadFields):
    """A dry run changes nothing, so it needs no name."""

    name: str = ""


class TrialBody(TrialFields):
    KINDS = frozenset({"local", "hub"})
    source: Source


async def list_adapters(http: Request) -> Response:
    services: Services = http.app.state.services
    data = [_wire(services, record) for record in services.registry.records()]
    return JSONResponse({"object": "list", "data": data, "has_more": False})


async def retrieve_adapter(http: Request) -> Response:
    services: Services = http.app.state.services
    return JSONResponse(_wire(services, services.registry.record(http.path_params["name"])))


async def register_adapter(http: Request) -> Response:
    """201 with the record; 200 when the same bytes already have this name. With `dry_run`, a verdict."""
    services: Services = http.app.state.services
    if _is_dry_run(http):
        return JSONResponse(await _try(http, services))
    async with _opened(http, services, UploadFields, RegisterBody) as (fields, files):
        record, changed = await run_in_threadpool(
            services.registry.register, fields.name, files, replace=fields.replace, metadata=fields.metadata
        )
    return JSONResponse(_wire(services, record), 201 if changed else 200)


async def delete_adapter(http: Request) -> Response:
    """Waits for running requests, then says how many bytes came free; `freed_bytes` is null when they outlast the wait."""
    services: Services = http.app.state.services
    name = http.path_params["name"]
    freed = await run_in_threadpool(services.registry.delete, name, DELETE_WAIT_S)
    return JSONResponse({"object": "adapter", "id": name, "deleted": True, "freed_bytes": freed})


async def _try(http: Request, services: Services) -> dict[str, Any]:
    """Would it load, and if not, every reason why."""
    try:
        async with _opened(http, services, TrialFields, TrialBody) as (fields, files):
            if fields.name:
                check_name(fields.name)
            await run_in_threadpool(services.registry.judge, files)
    except AdapterRefused as refused:
        return verdict(refused.findings)
    return verdict([])


@asynccontextmanager
async def _opened(
    http: Request, services: Services, form: type[UploadFields], body: type[RegisterBody | TrialBody]
) -> AsyncIterator[tuple[UploadFields, AdapterFiles]]:
    """The fields and the opened files of any source; what was received or fetched is gone at the end."""
    if media_type(http) in (FORM, TAR):
        async with received(http, services) as (fields, files):
            yield form.parse(fields), files
        return
    asked = await read_body(http, body)
    async with _opened_source(http, services, asked.source) as files:
        yield asked, files


@asynccontextmanager
async def _opened_source(http: Request, services: Services, source: Source) -> AsyncIterator[AdapterFiles]:
    if isinstance(source, LocalSource):
        folder = await run_in_threadpool(confine, services.adapters_root, source.path)
        async with threaded(open_folder(folder)) as files:
            yield files
        return
    if not services.http.allow_hub:
        raise RequestRefused(
            "this server fetches nothing from the hub; upload the files, or start it with --allow-hub",
            param="source.type",
        )
    limit = services.http.max_adapter_bytes
    async with one_of_few(http), threaded(services.intake.scratch()) as scratch:
        async with threaded(fetching(source.repo, source.revision, scratch, limit)) as fetch:
            origin = await unless_gone(http, run_in_threadpool(fetch.wait))
        async with threaded(open_folder(scratch)) as files:
            yield dataclasses.replace(files, origin=origin)


def _is_dry_run(http: Request) -> bool:
    given = http.query_params.get("dry_run", "false")
    if given not in ("true", "false"):
        raise RequestRefused("dry_run is true or false", param="dry_run")
    return given == "true"


def _wire(services: Services, record: AdapterRecord) -> dict[str, Any]:
    state = services.stats().adapters.get(record.generation, AdapterState.REGISTERED)
    return {
        "object": "adapter",
        "id": record.name,
        "generation": record.generation,
        "state": state,
        "tier": TIERS.get(state, "disk"),
        "rank": record.rank,
        "ranks": dict(record.ranks),
        "bytes": record.bytes,
        "targets": sorted({module.rpartition(".")[2] for module in record.ranks}),
        "base": services.model.name,
        "leases": record.leases,
        "created": int(record.created),
        "source": dict(record.source),
        "warnings": list(record.warnings),
        "metadata": dict(record.metadata),
    }
