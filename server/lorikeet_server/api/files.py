"""/v1/files: data to train on and what training measured, as OpenAI's objects."""

from __future__ import annotations

import json
from functools import partial
from http import HTTPStatus
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from lorikeet_adapters.form import FormReader
from lorikeet_server.api.backstage import reviewed
from lorikeet_server.api.caller import caller_of
from lorikeet_server.api.file_form import FileUpload, lifetime_of
from lorikeet_server.api.precondition import answered_once
from lorikeet_server.api.query import choice_of, number_of, read_query
from lorikeet_server.api.services import Services
from lorikeet_server.api.uploads import FORM, media_type, one_of_few, pump, threaded
from lorikeet_server.errors import RangeRefused, RequestRefused
from lorikeet_trainer.jobs.job import FilePurpose, JobFile

MOST = 10_000
MOST_LINES = 99_999_999
PURPOSES = tuple(map(str, FilePurpose))


class Content(FileResponse):
    """A file whose refusals of a Range are errors like every other. Raises RequestRefused or RangeRefused."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = 0

        async def watched(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = message["status"]
            if not refused:
                await send(message)

        await super().__call__(scope, receive, watched)
        if refused == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise RangeRefused("Range: the file does not have these bytes", param="Range")
        if refused:
            raise RequestRefused("Range: must be like bytes=0-99", param="Range")


async def upload_file(http: Request) -> Response:
    """Straight onto the data folder's disk; nothing of it is left when it is refused."""
    services: Services = http.app.state.services
    if media_type(http) != FORM:
        raise RequestRefused(f"send the file as {FORM}")
    read_query(http, ())
    files = services.jobs.files
    async with one_of_few(http), threaded(files.intake.file()) as arrival:
        upload = FileUpload(arrival)
        _, options = parse_options_header(http.headers["content-type"])
        form = FormReader(options.get(b"boundary", b""), upload, services.http.max_body_bytes)
        await pump(http, form, services.http.max_file_bytes, "--max-file-bytes")
        lifetime, name = lifetime_of(form.fields), upload.name()
        digest = await run_in_threadpool(arrival.seal)
        owner = caller_of(http).tenant or ""

        async def keep() -> tuple[dict[str, Any], int]:
            made = await run_in_threadpool(files.put, arrival, name, owner, FilePurpose.FINE_TUNE, lifetime)
            return file_object(made), 200

        return await answered_once(
            http, [digest, name, lifetime], keep, lambda file: files.get(file, caller_of(http).tenant)
        )


async def list_files(http: Request) -> Response:
    services: Services = http.app.state.services
    query = read_query(http, ("after", "limit", "order", "purpose"))
    limit = number_of(query, "limit", MOST, MOST)
    order = choice_of(query, "order", ("desc", "asc"))
    found = await run_in_threadpool(services.jobs.files.files, caller_of(http).tenant)
    if "purpose" in query:
        purpose = choice_of(query, "purpose", PURPOSES)
        found = [each for each in found if each.purpose == purpose]
    if order == "asc":
        found.reverse()
    if (after := query.get("after")) is not None:
        places = [place for place, each in enumerate(found) if each.id == after]
        found = found[places[0] + 1 :] if places else []
    return JSONResponse(page(list(map(file_object, found[:limit])), len(found) > limit))


async def retrieve_file(http: Request) -> Response:
    return JSONResponse(file_object(await _found(http)))


async def file_content(http: Request) -> Response:
    services: Services = http.app.state.services
    found = await _found(http)
    path = services.jobs.files.path(found.id)
    return Content(path, media_type="application/octet-stream", filename=found.filename)


async def check_file(http: Request) -> Response:
    """As a job would check it, in a process of its own; files wait for their turn."""
    services: Services = http.app.state.services
    query = read_query(http, ("line",))
    line = number_of(query, "line", 1, MOST_LINES) if "line" in query else None
    work = partial(services.jobs.check, http.path_params["id"], caller_of(http).tenant, line)
    report = await reviewed(http, work)
    return Response(json.dumps(report), media_type="application/json")  # ASCII: a file may say anything


async def delete_file(http: Request) -> Response:
    """409 while a job that is not over needs it."""
    services: Services = http.app.state.services
    file = http.path_params["id"]
    await run_in_threadpool(services.jobs.files.delete, file, caller_of(http).tenant)
    return JSONResponse({"id": file, "object": "file", "deleted": True})


async def _found(http: Request) -> JobFile:
    services: Services = http.app.state.services
    return await run_in_threadpool(services.jobs.files.get, http.path_params["id"], caller_of(http).tenant)


def file_object(file: JobFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.filename,
        "purpose": str(file.purpose),
        "status": "processed",
        "status_details": None,
    }


def page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """OpenAI's pages, by which its clients ask for the next one."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}
