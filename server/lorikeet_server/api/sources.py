"""Where the files of POST /v1/adapters come from: a folder here, the hub, or the body itself."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from lorikeet_adapters.hub import fetching
from lorikeet_adapters.source import AdapterFiles, confine, open_folder
from lorikeet_server.api.body import MANY, Body, read_body
from lorikeet_server.api.caller import check_operator
from lorikeet_server.api.run import unless_gone
from lorikeet_server.api.services import Services
from lorikeet_server.api.uploads import FORM, TAR, media_type, one_of_few, received, threaded
from lorikeet_server.errors import RequestRefused


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
    pinned: bool | None = None
    tenants: list[str] | None = Field(default=None, max_length=MANY)
    metadata: dict[str, Any] | None = None


class RegisterBody(UploadFields):
    KINDS = frozenset({"local", "hub"})
    source: Source


class TrialFields(UploadFields):
    """A dry run changes nothing, so it needs no name."""

    name: str = ""


class TrialBody(TrialFields):
    """A registration as the document shows it, where nothing can say that only a dry run may leave out the name."""

    KINDS = frozenset({"local", "hub"})
    source: Source


@asynccontextmanager
async def opened(
    http: Request, services: Services, form: type[UploadFields], body: type[RegisterBody | TrialBody]
) -> AsyncIterator[tuple[UploadFields, AdapterFiles]]:
    """The fields and the opened files of any source; what was received or fetched is gone at the end."""
    if media_type(http) in (FORM, TAR):
        async with received(http, services) as (fields, files):
            yield form.parse(fields), files
        return
    asked = await read_body(http, body)
    async with opened_source(http, services, asked.source) as files:
        yield asked, files


@asynccontextmanager
async def opened_source(http: Request, services: Services, source: Source) -> AsyncIterator[AdapterFiles]:
    """The folders and the hub's credentials are the operator's, so a tenant's key may only upload."""
    check_operator(http, f"source: the key of a tenant may not register from {source.type}; upload the files")
    if isinstance(source, LocalSource):
        folder = await run_in_threadpool(confine, services.adapters_root, source.path)
        async with threaded(open_folder(folder, source.path)) as files:
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
        async with threaded(open_folder(scratch, source.repo)) as files:
            yield dataclasses.replace(files, origin=origin)
