"""GET /openapi.json: OpenAPI 3.1 out of the types that parse, the table of operations and the table of errors."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from lorikeet_server.api.body import Body
from lorikeet_server.api.envelope import NATIVE_PATHS, NATIVE_STATUS, VLLM_PATHS
from lorikeet_server.api.files import MOST_LINES
from lorikeet_server.api.gate import is_console, open_routes, scopes_of
from lorikeet_server.api.lobby import ALWAYS
from lorikeet_server.api.operations import JSON, OPERATIONS, STREAM, Operation
from lorikeet_server.api.precondition import GENERATION, KEY
from lorikeet_server.api.records import MOST, PAGE
from lorikeet_server.api.request_log import MAX_TEXT, RATINGS
from lorikeet_server.api.services import Services
from lorikeet_server.api.sources import UploadFields
from lorikeet_server.api.uploads import FORM, TAR
from lorikeet_server.errors import TABLE

Wire = dict[str, Any]
# Statuses that only some operations answer, so the table of operations names them; any other can come from each.
PARTICULAR = frozenset({400, 404, 408, 409, 412, 413, 416, 422, 503, 504})
SHAPES = {"openai": "Error", "native": "NativeError", "vllm": "VllmError"}
NULLABLE = {"type": ["string", "null"]}
HEALTH = frozenset({"/health", "/health/live", "/health/ready", "/startup", "/ping"})
FILE_FORM: Wire = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {"enum": ["fine-tune"]},
        "expires_after[anchor]": {"enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
    "additionalProperties": False,
}
PARAMETERS: dict[str, Wire] = {
    "name": {
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "May hold a slash.",
    },
    "id": {"in": "path", "required": True, "schema": {"type": "string"}},
    "file": {
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "May hold a slash.",
    },
    "limit": {"in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": PAGE}},
    "after": {"in": "query", "schema": {"type": "string"}, "description": "The last id of the page before."},
    "after_event": {
        "name": "after",
        "in": "query",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
        "description": "The last id of the page before.",
    },
    "dry_run": {"in": "query", "schema": {"type": "boolean", "default": False}},
    "file_limit": {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 10_000},
    },
    "job_limit": {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    },
    "checkpoint_limit": {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
    },
    "line": {
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LINES},
        "description": "Of the row whose loss mask is shown; default: the first that can be.",
    },
    "order": {"in": "query", "schema": {"enum": ["asc", "desc"], "default": "desc"}},
    "purpose": {"in": "query", "schema": {"enum": ["fine-tune", "fine-tune-results"]}},
    "metadata": {
        "in": "query",
        "style": "deepObject",
        # A value is text as it stands there, so every value is one.
        "schema": {"type": "object", "propertyNames": {"pattern": r"^[^\[\]]+$"}},
        "description": "Jobs that have these pairs; `metadata=null` those that have none.",
    },
    "q": {
        "in": "query",
        "schema": {"type": "string", "maxLength": MAX_TEXT, "pattern": r"^[^\0]*$"},
        "description": "A text that occurs in the prompt or the answer.",
    },
    "model": {"in": "query", "schema": {"type": "string"}, "description": "As the request named it."},
    "rating": {"in": "query", "schema": {"enum": list(RATINGS)}},
    "stream": {"in": "query", "schema": {"type": "boolean", "default": False}},
    "Last-Event-ID": {
        "in": "header",
        "schema": {"type": "string"},
        "description": "For a stream: what came last.",
    },
    "If-Match": {
        "in": "header",
        "schema": {"type": "string", "pattern": rf"^({GENERATION.pattern}|\*)$"},
        "description": "The generation meant, or *.",
    },
    "Idempotency-Key": {"in": "header", "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"}},
}


BEARER = {"type": "http", "scheme": "bearer", "description": "An API key."}


async def openapi(http: Request) -> Response:
    services: Services = http.app.state.services
    without_key = None if services.keys is None else open_routes(services.http.open_metrics)
    return Response(_rendered(without_key), media_type=JSON)


@cache
def _rendered(without_key: frozenset[str] | None) -> bytes:
    return json.dumps(document(without_key)).encode()


def document(without_key: Collection[str] | None = None) -> Wire:
    """The whole document; all of the server's state that it tells is which routes need no key, None for all."""
    bodies = {each.body for each in OPERATIONS.values() if each.body is not None}
    ordered = sorted(bodies, key=lambda each: each.__name__)
    _, made = models_json_schema(
        [(each, "validation") for each in ordered], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Wire] = {}
    for (method, path), operation in OPERATIONS.items():
        made_of = _operation(method, path, operation)
        route = re.sub(r"{(name|file)}", r"{\1:path}", path)
        if without_key is not None and path not in without_key and not is_console(method, route):
            made_of["security"] = [{"key": [scope]} for scope in sorted(scopes_of(route))]
        paths.setdefault(path, {})[method.lower()] = made_of
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lorikeet",
            "version": version("lorikeet"),
            "description": "Many LoRA adapters on one resident quantised base model.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": made["$defs"] | _error_schemas(),
            "parameters": {key: {"name": key, **each} for key, each in PARAMETERS.items()},
            **({} if without_key is None else {"securitySchemes": {"key": BEARER}}),
        },
    }


def query_parameters() -> dict[tuple[str, str], list[str]]:
    """What each operation takes in its query. Probes may say what they like: they are answered alike."""
    known: dict[tuple[str, str], list[str]] = {}
    for (method, path), operation in OPERATIONS.items():
        if path not in ALWAYS:
            asked = [(PARAMETERS[each].get("name", each), PARAMETERS[each]) for each in operation.parameters]
            names = [name for name, each in asked if each["in"] == "query"]
            families = [f"{name}[" for name, each in asked if each.get("style") == "deepObject"]
            fields = UploadFields.model_fields if operation.uploads else ()  # a tar's
            known[method, path] = [*names, *families, *fields]
    return known


def statuses_of(path: str, operation: Operation) -> dict[int, list[str]]:
    """Every status an operation can fail with, and the codes behind each; native routes have statuses of their own."""
    found: dict[int, list[str]] = {}
    particular = operation.errors if path in ALWAYS else operation.errors | {400}
    for row in TABLE.values():
        if row.status in particular or row.status not in PARTICULAR:
            native = path in NATIVE_PATHS
            status = NATIVE_STATUS.get((row.status, row.native_type), row.status) if native else row.status
            if row.code not in found.setdefault(status, []):
                found[status].append(row.code)
    return dict(sorted(found.items()))


def _operation(method: str, path: str, operation: Operation) -> Wire:
    words = [method.lower(), *path.replace("{", "").replace("}", "").replace(".", "/").split("/")]
    parameters = [*re.findall(r"{(\w+)}", path), *operation.parameters]
    answers = {str(status): _answer(operation) for status in operation.statuses}
    failures = {str(status): _failure(path, codes) for status, codes in statuses_of(path, operation).items()}
    made: Wire = {
        "operationId": "_".join(filter(None, words)),
        "summary": operation.summary,
        "responses": answers | failures,
    }
    if parameters:
        made["parameters"] = [{"$ref": f"#/components/parameters/{each}"} for each in parameters]
    if operation.form:
        made["requestBody"] = {"required": True, "content": {FORM: {"schema": FILE_FORM}}}
    if operation.body is not None:
        made["requestBody"] = {"required": True, "content": _content(operation.body, operation.uploads)}
    return made


def _content(body: type[Body], uploads: bool) -> Wire:
    content: Wire = {JSON: {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
    if uploads:
        file = {"type": "string", "contentMediaType": "application/octet-stream"}
        files = {"adapter_config.json": file, "adapter_model.safetensors": file}
        fields = {key: {"type": "string"} for key in UploadFields.model_fields}
        # No file is required: of one that is not there, a dry run tells as it tells of all that is wrong.
        form = {"type": "object", "properties": fields | files}
        content[FORM] = {"schema": {**form, "additionalProperties": False}}
        content[TAR] = {"schema": file}
    return content


def _answer(operation: Operation) -> Wire:
    whole: Wire = {"type": "object", "required": list(operation.keys)}
    if operation.many:
        whole = {"type": "array", "items": whole}
    schemas: dict[str, Wire] = {JSON: {"schema": whole}, STREAM: {}}  # 3.1 has no word for a stream's events
    content = {each: schemas.get(each, {"schema": {"type": "string"}}) for each in operation.media}
    return {"description": operation.summary, "headers": _headers(), "content": content}


def _failure(path: str, codes: Iterable[str]) -> Wire:
    kind = "native" if path in NATIVE_PATHS else "vllm" if path in VLLM_PATHS else "openai"
    schema: Wire = {"$ref": f"#/components/schemas/{SHAPES[kind]}"}
    if path in HEALTH:  # a probe that is answered 503 has the status in its body
        schema = {"anyOf": [{"type": "object", "required": ["status"]}, schema]}
    return {"description": ", ".join(codes), "headers": _headers(), "content": {JSON: {"schema": schema}}}


def _headers() -> Wire:
    return {"x-request-id": {"schema": {"type": "string"}}}


def _error_schemas() -> dict[str, Wire]:
    def shape(code: Wire) -> Wire:
        fields = {"message": {"type": "string"}, "type": {"type": "string"}, "param": NULLABLE, "code": code}
        inner = {"type": "object", "required": list(fields), "properties": fields}
        return {"type": "object", "required": ["error"], "properties": {"error": inner}}

    native = {"error": {"type": "string"}, "error_type": {"type": "string"}}
    return {
        SHAPES["openai"]: shape({"type": "string"}),
        SHAPES["vllm"]: shape({"type": "integer"}),
        SHAPES["native"]: {"type": "object", "required": list(native), "properties": native},
    }
