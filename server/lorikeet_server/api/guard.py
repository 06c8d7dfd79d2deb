"""Around every request, as plain ASGI: who may ask, a count by route and status, a line in the log."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorikeet_server.api import access_log
from lorikeet_server.api.access_log import Entry
from lorikeet_server.api.envelope import CLIENT_CLOSED, on_error
from lorikeet_server.api.gate import Gate, methods_of, template
from lorikeet_server.api.uploads import FORM, TAR
from lorikeet_server.errors import HostForbidden, RequestRefused
from lorikeet_server.metrics import Metrics

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
UPLOAD_PATHS = frozenset({"/v1/adapters", "/v1/files"})
JSON = "application/json"


class Guard:
    """`local_only` is on while no key protects the server: then a web page must not be able to drive it.

    A page elsewhere can point a name of its own at 127.0.0.1, so the Host header must be local, and
    its Origin, when a browser sends one, too; and what changes state must be of a kind that a page
    cannot send across origins without being asked for permission first. JSON and tar are; a form is
    not, so it must come from this very origin or carry a header that only a program sets.
    """

    def __init__(
        self, app: ASGIApp, *, local_only: bool, gate: Gate, metrics: Metrics, origins: frozenset[str]
    ) -> None:
        self._app = app
        self._local_only = local_only
        self._gate = gate
        self._metrics = metrics
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["entry"] = entry = Entry(scope["request_id"], scope["method"])
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.http.labels(template(scope), status).inc()
            await send(message)

        try:
            if self._local_only:
                _check_local(scope, headers, self._origins)
            if (caller := self._gate.admit(scope, headers)) is not None:
                scope["caller"] = entry.caller = caller
            await self._app(scope, receive, tagged)
        except Exception as error:
            # Answered here, inside the count; Starlette's own handler stands outside.
            if status:
                raise
            response = await on_error(Request(scope), error)
            await response(scope, receive, tagged)
        finally:
            access_log.write(entry, template(scope), 0 if status == CLIENT_CLOSED else status)


def _check_local(scope: Scope, headers: Headers, origins: frozenset[str]) -> None:
    if _hostname(f"//{headers.get('host', '')}") not in LOCAL_HOSTS:
        raise HostForbidden(
            "without keys this server answers only to localhost; start it with --api-keys to allow other hosts"
        )
    origin = headers.get("origin")
    if origin is not None and origin not in origins and _hostname(origin) not in LOCAL_HOSTS:
        raise HostForbidden("requests from other origins are not allowed; --cors-origin names those that are")
    if scope["method"] == "POST" and "POST" in methods_of(scope):
        _check_kind(scope["path"], headers)


def _check_kind(path: str, headers: Headers) -> None:
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if path not in UPLOAD_PATHS:
        if kind != JSON:
            raise RequestRefused(f"send the body with content-type: {JSON}")
    elif kind not in (JSON, FORM, TAR):
        raise RequestRefused(f"send the body with content-type: {JSON}, {FORM} or {TAR}")
    elif kind == FORM and "x-lorikeet" not in headers and not _is_same_origin(headers):
        raise HostForbidden("send a form from this server's own page, or with the header x-lorikeet: 1")


def _is_same_origin(headers: Headers) -> bool:
    return urlsplit(headers.get("origin", "")).netloc == headers["host"]


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # brackets that are no IPv6 address
        return None
