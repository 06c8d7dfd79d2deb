"""One streamed completion from any OpenAI-compatible server, with the moment of each piece.

The client adds nothing of its own to what is measured but the time to read a line: pieces are
stamped as their line is complete, and decoded when the whole run has ended.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from lorikeet_bench.exchange import Recording
from lorikeet_bench.workload import Ask, Dialect

DATA = "data:"
SERVER_FACTS = (
    "model_id",
    "version",
    "model_dtype",
    "model_device_type",
    "quantization",
    "slots",
    "rank_rows",
)


class Client:
    """`url` is the server's root, below which /v1/completions lies."""

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        connections: int,
        dialect: Dialect = Dialect.FULL,
        timeout: float = 600.0,
    ) -> None:
        self._dialect = dialect
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

    async def facts(self) -> Mapping[str, Any]:
        """What the server says of itself at /info, where it has one; empty where it has none."""
        try:
            answer = await self._http.get("/info")
            told = answer.json() if answer.status_code == httpx.codes.OK else {}
        except (httpx.HTTPError, ValueError):
            return {}
        return {name: told[name] for name in SERVER_FACTS if name in told} if isinstance(told, dict) else {}

    async def complete(self, ask: Ask, due: float | None = None) -> Recording:
        """`due` is when it should have been sent, now if it is None.

        Never raises for what the server does: that is part of the measurement.
        """
        body = {
            "model": ask.model,
            "prompt": ask.prompt,
            "max_tokens": ask.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_spoken(self._dialect, ask.model),
        }
        lines: list[tuple[float, str]] = []
        error = ""
        sent = time.perf_counter()
        try:
            try:
                error = await self._stream(body, lines)
            except httpx.RemoteProtocolError:
                if lines:
                    raise
                # The server had closed a connection that was kept: a new one is what any client would open.
                error = await self._stream(body, lines)
        except httpx.HTTPError as failure:
            error = f"{type(failure).__name__}: {failure}"
        return Recording(ask.model, sent if due is None else due, sent, time.perf_counter(), lines, error)

    async def _stream(self, body: Mapping[str, Any], lines: list[tuple[float, str]]) -> str:
        """Note each line as it comes; returns why there is none. Raises httpx.HTTPError."""
        async with self._http.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                await answer.aread()
                return f"{answer.status_code}: {_reason(answer)}"
            async for line in answer.aiter_lines():
                if line.startswith(DATA):
                    lines.append((time.perf_counter(), line[len(DATA) :].strip()))
        return ""


def _spoken(dialect: Dialect, model: str) -> Mapping[str, Any]:
    """What a request for this model says beyond OpenAI's own fields."""
    more: dict[str, Any] = {} if dialect is Dialect.PLAIN else {"ignore_eos": True}
    if dialect is Dialect.LLAMA_CPP and model.isdecimal():
        more |= {"lora": [{"id": int(model), "scale": 1.0}]}
    return more


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
