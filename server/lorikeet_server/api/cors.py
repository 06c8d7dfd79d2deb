"""Which web pages may use the server: those of the operator's list, by default of none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from lorikeet_adapters.errors import RefusedError

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\-\[\]:]+")
ANY = "*"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SENT = ("authorization", "content-type", "idempotency-key", "if-match", "x-lorikeet", "x-request-id")
READ = ("etag", "idempotency-replayed", "retry-after", "x-lorikeet-generation", "x-request-id")


def cors(origins: Sequence[str]) -> Iterator[Middleware]:
    """Nothing for an empty list, so that no answer of ours invites a page. It answers preflights, which have no key."""
    if origins:
        yield Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=SENT,
            expose_headers=READ,
        )


def check_origins(origins: Sequence[str], *, has_keys: bool) -> None:
    """Raises RefusedError for what no browser sends as an Origin, and for every page where no key is asked for."""
    for origin in origins:
        if origin == ANY and not has_keys:
            raise RefusedError("--cors-origin '*' lets every web page drive this server; give it --api-keys")
        if origin != ANY and not ORIGIN.fullmatch(origin):
            raise RefusedError(
                f"--cors-origin {origin}: must be a scheme and a host in lower case, and a port if it is not "
                "the scheme's own, like https://app.example"
            )
