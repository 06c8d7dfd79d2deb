"""One streamed completion from any OpenAI-compatible server, with the moment of each piece.

The client adds nothing of its own to what is measured but the time to read a line: pieces are
stamped as their line is complete, and decoded after the stream has ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from lorikeet_bench.workload import Ask

DATA = "data:"
DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it; all times in seconds on one clock.

    `arrivals` are the moments at which pieces with text came; `tokens` is the server's own count,
    or the number of pieces where it gives none. `error` is empty when the answer is whole.
    """

    model: str
    sent: float
    ended: float
    arrivals: tuple[float, ...] = ()
    input_tokens: int = 0
    tokens: int = 0
    counted: bool = False
    error: str = ""

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def e2e(self) -> float:
        return self.arrivals[-1] - self.sent

    @property
    def tpot(self) -> float:
        """Mean time between tokens after the first; several tokens may come in one piece."""
        return (self.arrivals[-1] - self.arrivals[0]) / max(self.tokens - 1, 1)

    @property
    def gaps(self) -> tuple[float, ...]:
        """Inter-token latencies as the client saw them, one less than there are pieces."""
        return tuple(b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False))


class Client:
    """`url` is the server's root, below which /v1/completions lies."""

    def __init__(self, url: str, key: str = "", *, connections: int, timeout: float = 600.0) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, limits=limits, timeout=timeout, trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> tuple[str, ...]:
        """Names the server answers to. Raises httpx.HTTPError."""
        answer = await self._http.get("/v1/models")
        answer.raise_for_status()
        return tuple(each["id"] for each in answer.json()["data"])

    async def complete(self, ask: Ask) -> Exchange:
        """Never raises for what the server does: that is part of the measurement."""
        body = {
            "model": ask.model,
            "prompt": ask.prompt,
            "max_tokens": ask.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        lines: list[tuple[float, str]] = []
        error = ""
        sent = time.perf_counter()
        try:
            async with self._http.stream("POST", "/v1/completions", json=body) as answer:
                if answer.status_code != httpx.codes.OK:
                    await answer.aread()
                    error = f"{answer.status_code}: {_reason(answer)}"
                else:
                    async for line in answer.aiter_lines():
                        if line.startswith(DATA):
                            lines.append((time.perf_counter(), line[len(DATA) :].strip()))
        except httpx.HTTPError as failure:
            error = f"{type(failure).__name__}: {failure}"
        return read_stream(ask.model, sent, time.perf_counter(), lines, error)


def read_stream(
    model: str, sent: float, ended: float, lines: Sequence[tuple[float, str]], error: str = ""
) -> Exchange:
    """What the stamped lines of one event stream say. A stream without an ending is an error."""
    arrivals: list[float] = []
    usage: dict[str, Any] = {}
    finished = False
    for stamp, line in lines:
        if line == DONE:
            continue
        event = json.loads(line)
        if "error" in event:
            error = error or str(event["error"].get("message", event["error"]))
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            finished = finished or choice.get("finish_reason") is not None
            if choice.get("text"):
                arrivals.append(stamp)
    if not error and not (finished and arrivals):
        error = "the stream ended without a finish_reason" if arrivals else "the answer has no text"
    tokens = usage.get("completion_tokens", len(arrivals))
    return Exchange(
        model,
        sent,
        ended,
        tuple(arrivals),
        usage.get("prompt_tokens", 0),
        tokens,
        "completion_tokens" in usage,
        error,
    )


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
