"""/v1/fine_tuning/jobs: OpenAI's fine-tuning on the base that is served."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_server.api.body import read_body
from lorikeet_server.api.caller import caller_of
from lorikeet_server.api.files import page
from lorikeet_server.api.job_body import JobBody
from lorikeet_server.api.job_records import checkpoint_object, job_object
from lorikeet_server.api.precondition import answered_once
from lorikeet_server.api.query import number_of, read_query
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestRefused, ServerDraining
from lorikeet_trainer.jobs.job import Job

PAGE, MOST = 20, 100
CHECKPOINTS = 10
METADATA = "metadata["
PAIR = re.compile(r"metadata\[[^\[\]]+\]", re.DOTALL)


async def create_job(http: Request) -> Response:
    """The same order under the same Idempotency-Key is the same job, also across a kill."""
    services: Services = http.app.state.services
    if services.requests.draining:
        raise ServerDraining("the server is stopping and takes no new job; try again in a moment")
    body = await read_body(http, JobBody)
    asked = body.model_dump(mode="json")
    order, owner = body.order(), caller_of(http).tenant or ""
    key = http.headers.get("idempotency-key")
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    async def work() -> tuple[dict[str, Any], int]:
        job, _ = await run_in_threadpool(services.jobs.create, order, owner, key, digest)
        return job_object(job), 200

    return await answered_once(http, asked, work)


async def list_jobs(http: Request) -> Response:
    """The newest first; `metadata[key]=value` picks those that have it, `metadata=null` those with none."""
    services: Services = http.app.state.services
    wanted = [each for each in http.query_params if _is_pair(each)]
    query = read_query(http, ("after", "limit", "metadata", *wanted))
    limit = number_of(query, "limit", PAGE, MOST)
    if query.get("metadata", "null") != "null":
        raise RequestRefused("metadata: is null, or metadata[key]=value", param="metadata")
    found = await run_in_threadpool(services.jobs.ledger.jobs, caller_of(http).tenant)
    found.reverse()
    if "metadata" in query:
        found = [each for each in found if not each.order.metadata]
    for each in wanted:
        found = [job for job in found if _says(job, each[len(METADATA) : -1], query[each])]
    rest = _after(found, query.get("after"), lambda job: job.id)
    return JSONResponse(page(list(map(job_object, rest[:limit])), len(rest) > limit))


async def retrieve_job(http: Request) -> Response:
    return JSONResponse(job_object(await job_of(http)))


async def cancel_job(http: Request) -> Response:
    """What was saved last stays servable."""
    services: Services = http.app.state.services
    return await _moved(http, services.jobs.cancel)


async def pause_job(http: Request) -> Response:
    services: Services = http.app.state.services
    return await _moved(http, services.jobs.pause)


async def resume_job(http: Request) -> Response:
    services: Services = http.app.state.services
    return await _moved(http, services.jobs.resume)


async def list_checkpoints(http: Request) -> Response:
    """Those that can be served, the newest first."""
    services: Services = http.app.state.services
    query = read_query(http, ("after", "limit"))
    limit = number_of(query, "limit", CHECKPOINTS, MOST)
    job = await job_of(http)
    found = await run_in_threadpool(services.jobs.ledger.checkpoints, job.id)
    served = [each for each in found if each.is_served]
    rest = _after(served, query.get("after"), lambda each: each.id)
    return JSONResponse(page(list(map(checkpoint_object, rest[:limit])), len(rest) > limit))


async def job_of(http: Request) -> Job:
    """Raises JobNotFound, also for another tenant's."""
    services: Services = http.app.state.services
    return await run_in_threadpool(services.jobs.ledger.get, http.path_params["id"], caller_of(http).tenant)


async def _moved(http: Request, move: Callable[[str, str | None], Job]) -> Response:
    job = await run_in_threadpool(move, http.path_params["id"], caller_of(http).tenant)
    return JSONResponse(job_object(job))


def _is_pair(parameter: str) -> bool:
    """`metadata[key]`, the key not empty. One with brackets could as well be a key within a key."""
    return PAIR.fullmatch(parameter) is not None


def _says(job: Job, key: str, value: str) -> bool:
    return (job.order.metadata or {}).get(key) == value


def _after(found: list[Any], after: str | None, id_of: Callable[[Any], str]) -> list[Any]:
    """Those behind the one with this id; all where none is named, none where it is not there."""
    if after is None:
        return found
    places = [place for place, each in enumerate(found) if id_of(each) == after]
    return found[places[0] + 1 :] if places else []
