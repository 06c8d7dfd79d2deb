"""One JSON line a request: who asked for what, and what it came to. No prompt, no key, no path, no query."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.requests import Request

from lorikeet_server.api.caller import Caller

log = logging.getLogger("lorikeet.access")


@dataclass(slots=True)
class Entry:
    """What becomes known of a request while it is answered. Names are those that the registry knows."""

    request_id: str
    method: str
    caller: Caller | None = None
    model: str | None = None
    adapters: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    started: float = field(default_factory=time.monotonic)


def entry_of(http: Request) -> Entry:
    entry: Entry = http.scope["entry"]
    return entry


def note_mix(http: Request, model: str, adapters: Iterable[str]) -> None:
    """What the request asked for, once it was found to exist."""
    entry = entry_of(http)
    entry.model, entry.adapters = model, tuple(adapters)


def write(entry: Entry, route: str, status: int) -> None:
    """Status 0: the client left before there was one."""
    if not log.isEnabledFor(logging.INFO):
        return
    caller = entry.caller
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": entry.request_id,
        "method": entry.method,
        "route": route,
        "status": status,
        "error": entry.error,
        "duration_s": round(time.monotonic() - entry.started, 6),
        "tenant": None if caller is None else caller.tenant,
        "key": (caller.key or None) if caller is not None else None,
        "model": entry.model,
        "adapters": list(entry.adapters),
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
    }
    log.info("%s", plain(line))


def plain(line: object) -> str:
    """JSON in printable ASCII, so that nothing a client sent can end the line or move a terminal's cursor."""
    return json.dumps(line, separators=(",", ":")).replace("\x7f", "\\u007f")


def switch(on: bool) -> None:
    """Lines on standard error, without the prefix of the other messages, or none at all."""
    log.propagate = False
    log.setLevel(logging.INFO if on else logging.CRITICAL)
    if on:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.handlers[:] = [handler]
