"""Errors on the wire: OpenAI's envelope, LoRAX's and TGI's on the native routes, vLLM's on its two."""

from __future__ import annotations

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.errors import (
    AdapterConflict,
    AdapterIncompatible,
    AdapterNotFound,
    AdapterRefused,
    AliasRefused,
    ComposeRefused,
    GenerationNotFound,
    LorikeetError,
    NameRefused,
    PinRefused,
    TenantRefused,
)
from lorikeet_server.api.gate import methods_of
from lorikeet_server.api.run import ClientGone
from lorikeet_server.errors import OPAQUE, HttpError, RequestError, http_error

log = logging.getLogger(__name__)
VLLM_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
NATIVE_PATHS = frozenset({"/", "/generate", "/generate_stream"})
CLIENT_CLOSED = 499
# TGI's: what cannot be served as written, overload, and a generation that failed.
NATIVE_STATUS = {(400, "validation"): 422, (503, "overloaded"): 429, (500, "generation"): 424}
VLLM_TYPES = {404: "NotFoundError", 422: "UnprocessableEntityError"}
# The field at fault where the exception itself, raised below HTTP, cannot know of fields.
PARAMS: dict[type[LorikeetError], str] = {
    AdapterNotFound: "model",
    AliasRefused: "targets",
    ComposeRefused: "adapters",
    GenerationNotFound: "generation",
    AdapterIncompatible: "generation",
    PinRefused: "pinned",
    AdapterRefused: "source",
    AdapterConflict: "name",
    NameRefused: "name",
    TenantRefused: "tenants",
}


def openai_envelope(error: LorikeetError) -> dict[str, Any]:
    row = http_error(error)
    code = code_of(error)
    body = {"message": _message(error, row), "type": row.type, "param": _param(error), "code": code}
    return {"error": body}


def vllm_envelope(error: LorikeetError) -> dict[str, Any]:
    """vLLM's names for types, and the status as the code."""
    row = http_error(error)
    message = _message(error, row)
    if isinstance(error, AdapterNotFound):
        message = f"The lora adapter '{error.name}' cannot be found."
    kind = VLLM_TYPES.get(row.status, "InternalServerError" if row.status >= 500 else "InvalidUserInput")
    return {"error": {"message": message, "type": kind, "param": _param(error), "code": row.status}}


def native_envelope(error: LorikeetError) -> dict[str, Any]:
    row = http_error(error)
    return {"error": _message(error, row), "error_type": row.native_type}


async def on_error(request: Request, error: Exception) -> Response:
    """Every exception that reaches the application becomes exactly one of the envelopes."""
    if isinstance(error, ClientGone | ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED)
    known = error if isinstance(error, LorikeetError) else LorikeetError()
    row = http_error(known)
    if row.status == 500:  # a 503 says all there is to say itself, and comes in crowds
        log.error("request %s failed", request.scope.get("request_id"), exc_info=error)
    if "entry" in request.scope:
        request.scope["entry"].error = code_of(known)
    headers = {"retry-after": str(row.retry_after)} if row.retry_after else {}
    if row.challenge:
        headers["www-authenticate"] = row.challenge
    if row.status == 408:
        headers["connection"] = "close"  # the rest of the body may never come
    if row.status == 409:
        headers["x-should-retry"] = "false"  # OpenAI's client would send it again
    if request.scope["path"] in NATIVE_PATHS:
        status = NATIVE_STATUS.get((row.status, row.native_type), row.status)
        return JSONResponse(native_envelope(known), status, headers)
    shape = vllm_envelope if request.scope["path"] in VLLM_PATHS else openai_envelope
    return JSONResponse(shape(known), row.status, headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (no such route, wrong method) in the same envelope."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path'][:200]}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == 405:  # Starlette names the methods of one route only
        headers["Allow"] = ", ".join(sorted(methods_of(request.scope)))
    if request.scope["path"] in NATIVE_PATHS:
        return JSONResponse({"error": message, "error_type": "validation"}, error.status_code, headers)
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": "not_found"}
    if error.status_code == 405:
        body["code"] = "method_not_allowed"
    return JSONResponse({"error": body}, error.status_code, headers)


def _message(error: LorikeetError, row: HttpError) -> str:
    return str(error) if row.status != 500 else OPAQUE


def code_of(error: LorikeetError) -> str:
    return (error.code if isinstance(error, RequestError) else None) or http_error(error).code


def _param(error: LorikeetError) -> str | None:
    if error.param is not None or isinstance(error, RequestError):
        return error.param
    return next((param for kind, param in PARAMS.items() if isinstance(error, kind)), None)
