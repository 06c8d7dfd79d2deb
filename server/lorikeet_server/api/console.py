"""GET /: the console, a page that does in a browser what the routes do. Its files are part of the package.

The page holds nothing of the server's: what it shows it asks of the routes, with the key that is typed into it
where there are keys. It loads nothing from anywhere else, and the policy it is sent with says so to the browser.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lorikeet_server.api.services import Services

FOLDER = Path(__file__).parent.parent / "console"
SHELL = "index.html"
MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
OFF = "the console is off; start the server with --console on"
INLINE = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)  # no browser takes one from a file
POLICY = (
    "default-src 'none'",
    "script-src 'self' {scripts}",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the console as it is sent; `tag` is its ETag."""

    content: bytes
    media: str
    tag: str


async def shell(http: Request) -> Response:
    return _sent(http, SHELL)


async def asset(http: Request) -> Response:
    return _sent(http, http.path_params["file"])


def _sent(http: Request, name: str) -> Response:
    """304 for a file that the browser has. Raises HTTPException where the console is off, or has no such file."""
    services: Services = http.app.state.services
    if not services.http.shows_console:
        raise HTTPException(404, OFF)
    found = assets().get(name)
    if found is None:
        raise HTTPException(404)
    headers = {**_protection(), "etag": found.tag, "cache-control": "no-cache"}
    if http.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media, headers=headers)


@cache
def assets() -> dict[str, Asset]:
    """Every file by its path below the folder, read once: no request ever names a path of the disk."""
    files = [path for path in sorted(FOLDER.rglob("*")) if path.suffix in MEDIA]
    return {path.relative_to(FOLDER).as_posix(): _read(path) for path in files}


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, MEDIA[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


@cache
def _protection() -> dict[str, str]:
    """What a browser is told to refuse. The one script that stands in the page is allowed by its digest."""
    page = assets()[SHELL].content.decode()
    digests = [hashlib.sha256(each.encode()).digest() for each in INLINE.findall(page)]
    scripts = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
    return {
        "content-security-policy": "; ".join(POLICY).format(scripts=scripts),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }
