"""GET /v1/models and GET /v1/models/{id}: the base and every adapter, as OpenAI lists models."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.registry import AdapterRecord
from lorikeet_server.api.services import Services


async def list_models(http: Request) -> Response:
    services: Services = http.app.state.services
    cards = [_base_card(services), *(_adapter_card(services, each) for each in services.registry.records())]
    return JSONResponse({"object": "list", "data": cards})


async def retrieve_model(http: Request) -> Response:
    services: Services = http.app.state.services
    name = http.path_params["name"]
    if name == services.model.name:
        return JSONResponse(_base_card(services))
    return JSONResponse(_adapter_card(services, services.registry.record(name)))


def _base_card(services: Services) -> dict[str, Any]:
    model = services.model
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "lorikeet",
        "root": model.name,
        "parent": None,
        "max_model_len": model.max_model_len,
    }


def _adapter_card(services: Services, record: AdapterRecord) -> dict[str, Any]:
    """`root` is the name, never a path of the server."""
    return {
        "id": record.name,
        "object": "model",
        "created": int(record.created),
        "owned_by": "lorikeet",
        "root": record.name,
        "parent": services.model.name,
        "max_model_len": services.model.max_model_len,
    }
