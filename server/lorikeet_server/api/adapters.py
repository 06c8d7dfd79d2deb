"""GET, POST and DELETE /v1/adapters: what operators register."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.registry import AdapterRecord
from lorikeet_adapters.source import confine, open_folder
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.services import Services

DELETE_WAIT_S = 30.0
TIERS = {AdapterState.HOST: "host", AdapterState.DEVICE: "device"}


class LocalSource(Body):
    """A PEFT folder below the server's adapters root."""

    type: Literal["local"]
    path: str = Field(min_length=1, max_length=4096)


class RegisterBody(Body):
    name: str
    source: LocalSource
    replace: bool = False
    metadata: dict[str, Any] | None = None


async def list_adapters(http: Request) -> Response:
    services: Services = http.app.state.services
    data = [_wire(services, record) for record in services.registry.records()]
    return JSONResponse({"object": "list", "data": data, "has_more": False})


async def retrieve_adapter(http: Request) -> Response:
    services: Services = http.app.state.services
    return JSONResponse(_wire(services, services.registry.record(http.path_params["name"])))


async def register_adapter(http: Request) -> Response:
    """201 with the record; 200 when the same bytes already have this name."""
    services: Services = http.app.state.services
    body = await read_body(http, RegisterBody)
    record, changed = await run_in_threadpool(_register, services, body)
    return JSONResponse(_wire(services, record), 201 if changed else 200)


async def delete_adapter(http: Request) -> Response:
    """Waits for running requests, then says how many bytes came free; `freed_bytes` is null when they outlast the wait."""
    services: Services = http.app.state.services
    name = http.path_params["name"]
    freed = await run_in_threadpool(services.registry.delete, name, DELETE_WAIT_S)
    return JSONResponse({"object": "adapter", "id": name, "deleted": True, "freed_bytes": freed})


def _register(services: Services, body: RegisterBody) -> tuple[AdapterRecord, bool]:
    with open_folder(confine(services.adapters_root, body.source.path)) as files:
        return services.registry.register(body.name, files, replace=body.replace, metadata=body.metadata)


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
        "source": record.source,
        "warnings": list(record.warnings),
        "metadata": dict(record.metadata),
    }
