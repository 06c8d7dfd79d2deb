"""All replicas behind one Serve handle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from lorikeet_server.cluster.call import Call, Part, ReplicaGone

SCRAPE_S = 5.0


class ServeEngines:
    """`Engines` over Ray Serve. Use on one event loop."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._answering = handle.options(method_name="answer", stream=True)

    async def send(self, call: Call) -> AsyncIterator[Part]:
        parts = self._answering.remote(call)
        ended = False
        try:
            async for part in parts:
                yield part
            ended = True
        except RayActorError as error:
            ended = True
            raise ReplicaGone(type(error).__name__) from error
        finally:
            if not ended:
                parts.cancel()

    async def put(self, piece: bytes) -> Any:
        return await asyncio.to_thread(ray.put, piece)

    async def scrape(self, call: Call) -> dict[str, bytes]:
        asked = self._handle.broadcast("scrape", call)
        try:
            answers = await asked.results_async(timeout_s=SCRAPE_S, return_exceptions=True)
        except TimeoutError:
            return {}
        return dict(each for each in answers if not isinstance(each, BaseException))
