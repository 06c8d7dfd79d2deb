"""GET /v1/models and GET /v1/models/{id}: the base, every adapter and every alias, as OpenAI lists models."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.errors import AdapterNotFound
from lorikeet_adapters.record import AdapterRecord
from lorikeet_adapters.stored import StoredAlias
from lorikeet_server.api.caller import view_of
from lorikeet_server.api.services import Services


async def list_models(http: Request) -> Response:
    services: Services = http.app.state.services
    view = view_of(http)
    adapters = [_adapter_card(services, each) for each in view.records() if not each.leaving]
    aliases = [_alias_card(services, each) for each in view.aliases()]
    return JSONResponse({"object": "list", "data": [_base_card(services), *adapters, *aliases]})


async def retrieve_model(http: Request) -> Response:
    services: Services = http.app.state.services
    name = http.path_params["name"]
    if name == services.model.name:
        return JSONResponse(_base_card(services))
    try:
        return JSONResponse(_alias_card(services, view_of(http).alias(name)))
    except AdapterNotFound:
        return JSONResponse(_adapter_card(services, view_of(http).record(name)))


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
    return _card(services, record.name, record.created, record.name)


def _alias_card(services: Services, alias: StoredAlias) -> dict[str, Any]:
    """`root` names the adapters behind the alias, separated by commas."""
    return _card(services, alias.name, alias.created, ",".join(each.name for each in alias.targets))


def _card(services: Services, name: str, created: float, root: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(created),
        "owned_by": "lorikeet",
        "root": root,
        "parent": services.model.name,
        "max_model_len": services.model.max_model_len,
    }
