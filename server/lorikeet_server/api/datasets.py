"""POST /v1/datasets: kept requests as a file to train on."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from lorikeet_adapters.arrival import Arrival
from lorikeet_server.api.backstage import looked
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.caller import caller_of
from lorikeet_server.api.file_form import MAX_NAME
from lorikeet_server.api.files import file_object
from lorikeet_server.api.precondition import answered_once
from lorikeet_server.api.request_log import MAX_TEXT, log_of, searched
from lorikeet_server.api.services import Services
from lorikeet_server.api.uploads import one_of_few, threaded
from lorikeet_server.errors import DatasetRefused, RequestRefused
from lorikeet_server.request_log.record import Rating, Selection
from lorikeet_server.request_log.records import Records
from lorikeet_server.request_log.rows import LeftOut, Rows
from lorikeet_trainer.jobs.job import FilePurpose

MOST_IDS = 10_000
FILENAME = "requests.jsonl"


class DatasetBody(Body):
    """Ids, or what all of them have in common; neither is every request there is."""

    ids: Annotated[list[str], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)] | None = None
    q: str = Field(default="", max_length=MAX_TEXT)
    model: str | None = None
    rating: Literal["up", "down", "none"] | None = None
    filename: str = Field(default=FILENAME, min_length=1, max_length=MAX_NAME)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.ids is not None and (self.q or self.model is not None or self.rating is not None):
            raise PydanticCustomError("ids", "ids say which requests are meant; send no filter beside them")
        return self

    def selection(self) -> Selection:
        """Raises RequestRefused."""
        ids = None if self.ids is None else tuple(dict.fromkeys(self.ids))
        rating = None if self.rating is None else Rating(self.rating)
        return Selection(ids, searched(self.q), self.model, rating)


async def create_dataset(http: Request) -> Response:
    """Whole, or not at all; nothing of it is left when it is refused."""
    services: Services = http.app.state.services
    records, files = log_of(http).records, services.jobs.files
    body = await read_body(http, DatasetBody)
    selection, tenant = body.selection(), caller_of(http).tenant
    if not body.filename.isprintable():
        raise RequestRefused("filename: must be printable", param="filename")

    async def work() -> tuple[dict[str, Any], int]:
        async with one_of_few(http), threaded(files.intake.file()) as arrival:
            most = services.http.max_file_bytes
            write = partial(_write, arrival, records, tenant, selection, most_bytes=most)
            rows = await looked(http, write)
            file = await run_in_threadpool(
                files.put, arrival, body.filename, tenant or "", FilePurpose.FINE_TUNE
            )
        left_out = dict(sorted(rows.left_out.items()))
        made = {"id": file.id, "object": "dataset", "file": file_object(file)}
        return {**made, "rows": rows.count, "left_out": left_out}, 200

    return await answered_once(
        http, body.model_dump(mode="json"), work, lambda file: files.get(file, caller_of(http).tenant)
    )


def _write(
    arrival: Arrival, records: Records, owner: str | None, selection: Selection, *, most_bytes: int
) -> Rows:
    """Raises DatasetRefused for what makes no file, or none that is of one format."""
    rows, found = Rows(), 0
    for record in records.each(owner, selection):
        found += 1
        line = rows.line(record)
        if arrival.size + len(line) > most_bytes:
            raise DatasetRefused(
                f"the file would be over {most_bytes} bytes, the most that --max-file-bytes allows; select fewer"
            )
        arrival.write(line)
    if selection.ids is not None and found < len(selection.ids):
        rows.left_out[LeftOut.NOT_FOUND] = len(selection.ids) - found
    if rows.chats and rows.texts:
        raise DatasetRefused(
            f"{rows.chats} of these requests are chats and {rows.texts} are texts; "
            "a file has rows of one format, so select one kind",
        )
    if not rows.count:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rows.left_out.items()))
        raise DatasetRefused(f"no request makes a row: {reasons or 'there is none'}")
    return rows
