"""What stands behind the question mark, read strictly: a parameter that is not known is refused by name.

A misspelt `dry_run` would be a registration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lorikeet_server.api.gate import template
from lorikeet_server.errors import RequestRefused

SHOWN = 100


class StrictQuery:
    """As plain ASGI, for every operation that is `known`; the routes themselves read what the values mean.

    A parameter that ends in `[` stands for all that begin so.
    """

    def __init__(self, app: ASGIApp, *, known: Mapping[tuple[str, str], Collection[str]]) -> None:
        self._app = app
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["query_string"]:
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            known = self._known.get((method, template(scope).replace(":path}", "}")))
            if known is not None:
                _check(Request(scope), known)
        await self._app(scope, receive, send)


def _check(http: Request, known: Collection[str]) -> None:
    families = tuple(each for each in known if each.endswith("["))
    read_query(http, [*known, *(each for each in http.query_params if each.startswith(families))])


def read_query(http: Request, known: Collection[str]) -> dict[str, str]:
    """Each once. Raises RequestRefused."""
    pairs = http.query_params.multi_items()
    for key, _ in pairs:
        if key not in known:
            words = (
                ", ".join(sorted(each for each in known if each not in http.query_params)) or "nothing else"
            )
            raise RequestRefused(f"{key[:SHOWN]}: the query takes {words}", param=key[:SHOWN])
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestRefused("a parameter of the query is there twice")
    return found


def number_of(query: dict[str, str], key: str, default: int, most: int) -> int:
    """From 1 to `most`. Raises RequestRefused."""
    text = query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise RequestRefused(f"{key}: must be a number from 1 to {most}", param=key)
    return int(text)


def choice_of(query: dict[str, str], key: str, choices: tuple[str, ...]) -> str:
    """One of these; the first where none is given. Raises RequestRefused."""
    text = query.get(key, choices[0])
    if text not in choices:
        raise RequestRefused(f"{key}: must be {' or '.join(choices)}", param=key)
    return text
