"""Server-sent events: after the first byte an error travels inside the stream."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from lorikeet_adapters.errors import LorikeetError
from lorikeet_server.api.access_log import Entry
from lorikeet_server.api.envelope import code_of
from lorikeet_server.errors import GenerationFailed

log = logging.getLogger(__name__)
DONE = "data: [DONE]\n\n"
ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":")
)  # made once: there is an event for each token
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def data(payload: Mapping[str, Any]) -> str:
    return f"data: {ENCODER.encode(payload)}\n\n"


def stream(
    parts: AsyncIterator[str],
    envelope: Callable[[LorikeetError], Mapping[str, Any]],
    headers: Mapping[str, str],
    entry: Entry,
) -> StreamingResponse:
    """Send `parts` as they come; an exception becomes one last event in the route's own envelope, and is logged."""

    def told(error: LorikeetError) -> str:
        entry.error = code_of(error)
        return data(envelope(error))

    async def guarded() -> AsyncIterator[str]:
        try:
            async for part in parts:
                yield part
        except LorikeetError as error:
            yield told(error)
        except Exception:
            log.exception("a stream broke")
            yield told(GenerationFailed("the stream broke"))

    return StreamingResponse(guarded(), media_type="text/event-stream", headers={**HEADERS, **headers})
