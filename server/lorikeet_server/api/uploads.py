"""POST /v1/adapters with the files in the body: multipart or a plain tar, straight onto the store's disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from lorikeet_adapters.form import FormReader
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.tar import TarReader
from lorikeet_adapters.upload import Upload
from lorikeet_server.api.backstage import apart
from lorikeet_server.api.caller import caller_of
from lorikeet_server.api.services import Services
from lorikeet_server.api.value import parse_value
from lorikeet_server.errors import BodyTooLarge, BodyTooSlow, RequestRefused, ServerBusy, TenantBusy

T = TypeVar("T")
FORM = "multipart/form-data"
TAR = "application/x-tar"
PIECE = 1 << 20  # bytes handed to a thread at once: a hash and a write of a millisecond
MAX_INTAKES = 4
MAX_TENANT_INTAKES = 2  # so that no tenant's slow ones keep all others out
DEADLINE_S = 3600.0  # for the whole of an upload, however evenly it drips
TEXT_FIELDS = frozenset({"name"})  # every other field of a form or a query is JSON
QUERY_ONLY = frozenset({"dry_run"})


class Reader(Protocol):
    """Takes the body apart as it comes."""

    def feed(self, data: bytes) -> None: ...
    def close(self) -> None: ...


@asynccontextmanager
async def threaded(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave by a thread: to open, and to delete two gigabytes, can take the disk a while."""
    value = await run_in_threadpool(manager.__enter__)
    try:
        yield value
    finally:
        await run_in_threadpool(manager.__exit__, None, None, None)


@asynccontextmanager
async def one_of_few(http: Request) -> AsyncIterator[None]:
    """Uploads and fetches fill the disk and the threads, so only a few go on at once. Raises TenantBusy or ServerBusy."""
    intakes: Counter[str | None] = http.app.state.intakes
    tenant = caller_of(http).tenant
    if tenant is not None and intakes[tenant] >= MAX_TENANT_INTAKES:
        raise TenantBusy(
            f"{MAX_TENANT_INTAKES} files of your tenant are being uploaded; try again in a second"
        )
    if intakes.total() >= MAX_INTAKES:
        raise ServerBusy(f"{MAX_INTAKES} files are being uploaded or fetched; try again in a second")
    intakes[tenant] += 1
    try:
        yield
    finally:
        intakes[tenant] -= 1
        if not intakes[tenant]:
            del intakes[tenant]


def media_type(http: Request) -> str:
    return http.headers.get("content-type", "").split(";")[0].strip().lower()


@asynccontextmanager
async def received(http: Request, services: Services) -> AsyncIterator[tuple[dict[str, Any], AdapterFiles]]:
    """The fields and files of an upload; at the end of `with` nothing of it is left that the store did not take.

    Raises BodyTooLarge, BodyTooSlow, RefusedError, or AdapterRefused for files that are no adapter's.
    """
    async with one_of_few(http), threaded(services.intake.file()) as weights:
        upload = Upload(weights)
        if media_type(http) == TAR:
            reader: Reader = TarReader(upload)
            await pump(http, reader, services.http.max_adapter_bytes)
            fields = {key: value.encode() for key, value in _query(http).items()}
        else:
            _, options = parse_options_header(http.headers["content-type"])
            reader = form = FormReader(options.get(b"boundary", b""), upload, services.http.max_body_bytes)
            await pump(http, reader, services.http.max_adapter_bytes)
            fields = form.fields
        yield await apart(http, lambda: typed(fields)), upload.files()


def typed(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """Form fields as a JSON body would hold them: `replace=true`, `metadata={"team": "a"}`, a name as it is."""
    return {
        name: _text(name, value) if name in TEXT_FIELDS else parse_value(value, f"the field {name}")
        for name, value in fields.items()
    }


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestRefused(f"the field {name} is not valid UTF-8 text", param=name) from None


def _query(http: Request) -> dict[str, str]:
    """A tar has no room for fields, so they stand in the query."""
    pairs = [(key, value) for key, value in http.query_params.multi_items() if key not in QUERY_ONLY]
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise RequestRefused("a parameter of the query is there twice")
    return fields


async def pump(http: Request, reader: Reader, max_bytes: int, flag: str = "--max-adapter-bytes") -> None:
    """The body into the reader, by a thread and a megabyte at a time.

    What is refused half-way is answered at once; uvicorn reads the rest and drops it, so a client that
    is still sending sees the reason and no broken connection.
    """
    too_large = BodyTooLarge(f"the upload is over {max_bytes} bytes, the most that {flag} allows")
    _check_length(http, max_bytes, too_large)
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for piece in _pieces(http, max_bytes, too_large):
                await run_in_threadpool(reader.feed, piece)
    except TimeoutError:
        raise BodyTooSlow(f"the upload was not whole after {DEADLINE_S:g} s; send it again, faster") from None
    await run_in_threadpool(reader.close)


async def _pieces(http: Request, max_bytes: int, too_large: BodyTooLarge) -> AsyncIterator[bytes]:
    gathered = bytearray()
    total = 0
    async for chunk in http.stream():
        total += len(chunk)
        if total > max_bytes:
            raise too_large
        gathered += chunk
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _check_length(http: Request, max_bytes: int, too_large: BodyTooLarge) -> None:
    """Refuse by the length promised, before a byte is read; a body without one is counted as it comes."""
    promised = http.headers.get("content-length", "")
    if promised.isdigit() and int(promised) > max_bytes:
        raise too_large
