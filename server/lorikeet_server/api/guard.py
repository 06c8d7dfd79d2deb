"""Around every request, as plain ASGI: an id, the host rule, and a count by route and status."""

from __future__ import annotations

import re
import uuid
from urllib.parse import urlsplit

from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorikeet_server.api.envelope import on_error
from lorikeet_server.api.uploads import FORM, TAR
from lorikeet_server.errors import HostForbidden, RequestRefused

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
UNMATCHED = "other"
UPLOAD_PATHS = frozenset({"/v1/adapters"})
JSON = "application/json"


class Guard:
    """`local_only` is on while no key protects the server: then a web page must not be able to drive it.

    A page elsewhere can point a name of its own at 127.0.0.1, so the Host header must be local, and
    its Origin, when a browser sends one, too; and what changes state must be of a kind that a page
    cannot send across origins without being asked for permission first. JSON and tar are; a form is
    not, so it must come from this very origin or carry a header that only a program sets.
    """

    def __init__(self, app: ASGIApp, *, local_only: bool, counter: Counter) -> None:
        self._app = app
        self._local_only = local_only
        self._counter = counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        scope["request_id"] = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        started = False

        async def tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = scope["request_id"]
                self._counter.labels(_route(scope), message["status"]).inc()
            await send(message)

        try:
            if self._local_only:
                _check_local(scope, headers)
            await self._app(scope, receive, tagged)
        except Exception as error:
            # Answered here, inside the count and with the id; Starlette's own handler stands outside both.
            if started:
                raise
            response = await on_error(Request(scope), error)
            await response(scope, receive, tagged)


def _check_local(scope: Scope, headers: Headers) -> None:
    if _hostname(f"//{headers.get('host', '')}") not in LOCAL_HOSTS:
        raise HostForbidden(
            "without keys this server answers only to localhost; start it with --insecure to allow other hosts"
        )
    origin = headers.get("origin")
    if origin is not None and _hostname(origin) not in LOCAL_HOSTS:
        raise HostForbidden("requests from other origins are not allowed")
    if scope["method"] == "POST":
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


def _route(scope: Scope) -> str:
    """The route's template: a path from a client would make an unbounded label."""
    if "route" not in scope:  # refused before the routing
        matched = (each for each in scope["app"].routes if each.matches(scope)[0] is not Match.NONE)
        return getattr(next(matched, None), "path", UNMATCHED)
    return getattr(scope["route"], "path", UNMATCHED)
