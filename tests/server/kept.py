"""Requests that were kept: made by hand, and waited for where a server keeps them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorikeet_server.request_log.log import RequestLog
from lorikeet_server.request_log.record import Record, Share

PATIENCE = 60.0


def record(**more: Any) -> Record:
    """A text, unless `messages` say otherwise."""
    asked = {"messages": None, "prompt": "Where is my order?", **more}
    asked["prompt"] = None if asked["messages"] is not None else asked["prompt"]
    given: dict[str, Any] = {
        "id": f"req-{uuid.uuid4().hex}",
        "created": 1000.0,
        "tenant": "",
        "key": "",
        "route": "/v1/completions",
        "model": "formal",
        "mix": (Share("ab" * 32, 0.5),),
        "answer": "On its way.",
        "finish_reason": "stop",
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "total_s": 0.25,
    }
    return Record(**{**given, **asked})


def put(log: RequestLog, *records: Record) -> None:
    """Through the line, and written when this returns."""
    with written(log, len(records)):
        for each in records:
            log.offer(each.size, lambda at, each=each: each)  # type: ignore[misc]  # its default binds it


@contextmanager
def written(log: RequestLog, count: int) -> Iterator[None]:
    """At the end so many more have been written, or dropped."""
    before = sum(log.totals())
    yield
    deadline = time.monotonic() + PATIENCE
    while sum(log.totals()) < before + count:
        assert time.monotonic() < deadline, log.totals()
        time.sleep(0.002)


@contextmanager
def running(folder: Path, **more: Any) -> Iterator[RequestLog]:
    log = RequestLog(folder, **more)
    log.start()
    try:
        yield log
    finally:
        log.close()
