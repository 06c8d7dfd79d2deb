"""POST /v1/load_lora_adapter and POST /v1/unload_lora_adapter: vLLM's bodies, texts and errors.

They register and delete like /v1/adapters, so what is loaded here is there after a restart too.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lorikeet_adapters.errors import AdapterConflict, AdapterNotFound, NameTaken
from lorikeet_adapters.hub import REPO
from lorikeet_adapters.source import confine
from lorikeet_server.api.adapters import DELETE_WAIT_S
from lorikeet_server.api.backstage import checked, deleted
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.caller import check_operator, view_of
from lorikeet_server.api.services import Services
from lorikeet_server.api.sources import HubSource, LocalSource, opened_source
from lorikeet_server.errors import RequestRefused, SourceMissing

NOT_EMPTY: Any = Field(json_schema_extra={"minLength": 1})  # refused below, in vLLM's words


class LoadBody(Body):
    """`lora_path` is a folder below the adapters root, or a repository where the hub is allowed.

    The gateways' adapter sidecar sends `base_model_name` with every load, empty where it was not told
    one; the files say what base they are of, and that is checked.
    """

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"is_3d_lora_weight", "base_model_name"})
    lora_name: str = NOT_EMPTY
    lora_path: str = NOT_EMPTY
    load_inplace: bool = False


class UnloadBody(Body):
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"lora_int_id"})
    lora_name: str = NOT_EMPTY


async def load_lora_adapter(http: Request) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, LoadBody)
    name = body.lora_name
    if not name or not body.lora_path:
        raise RequestRefused("Both 'lora_name' and 'lora_path' must be provided.")
    # Before anything is looked up: what lies where is the operator's to know.
    check_operator(
        http, "the key of a tenant may not load from a path; upload the files to POST /v1/adapters"
    )
    if not body.load_inplace and _is_adapter(http, name):
        raise _already(name)
    source = await run_in_threadpool(_source, services, body)
    async with opened_source(http, services, source) as files:
        register = partial(view_of(http).register, name, files, replace=body.load_inplace)
        try:
            _, changed = await checked(http, register)
        except NameTaken:
            raise
        except AdapterConflict:  # another request was faster
            raise _already(name) from None
    if not changed and not body.load_inplace:
        raise _already(name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


async def unload_lora_adapter(http: Request) -> Response:
    """Waits for running requests, as DELETE /v1/adapters/{name} does."""
    name = (await read_body(http, UnloadBody)).lora_name
    if not name:
        raise RequestRefused("'lora_name' needs to be provided to unload a LoRA adapter.")
    await deleted(http, partial(view_of(http).delete, name, DELETE_WAIT_S))
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _is_adapter(http: Request, name: str) -> bool:
    try:
        view_of(http).record(name)
    except AdapterNotFound:
        return False
    return True


def _already(name: str) -> RequestRefused:
    return RequestRefused(
        f"The lora adapter '{name}' has already been loaded. "
        "If you want to load the adapter in place, set 'load_inplace' to True."
    )


def _source(services: Services, body: LoadBody) -> LocalSource | HubSource:
    """A folder that is there is meant before a repository. Raises SourceMissing, or AdapterRefused outside the root."""
    path = body.lora_path
    if confine(services.adapters_root, path).is_dir():
        return LocalSource(type="local", path=path)
    if REPO.fullmatch(path) and services.http.allow_hub:
        return HubSource(type="hub", repo=path, revision="main")
    raise SourceMissing(
        f"Loading lora {body.lora_name} failed: no folder '{path[:200]}' below --adapters-root. "
        "A hub id needs --allow-hub."
    )
