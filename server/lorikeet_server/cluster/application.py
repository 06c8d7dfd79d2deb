"""The Ray Serve application: a door, replicas behind it, and beside them the registry's owner."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from lorikeet_server.api.gate import Gate
from lorikeet_server.cluster.arguments import read_arguments
from lorikeet_server.cluster.door import Bounds, Door
from lorikeet_server.cluster.engines import ServeEngines
from lorikeet_server.cluster.registry import start_owner
from lorikeet_server.cluster.replica import Replica
from lorikeet_server.cluster.router import AffinityRouter
from lorikeet_server.config import HttpConfig, ServerConfig
from lorikeet_server.keyring import Keyring

NAME = "lorikeet"
HEALTH_S = 2.0  # between two looks at a replica's engine
HUNG_S = 30.0
MORE_AFTER_S, FEWER_AFTER_S = 10.0, 300.0  # a base takes long to load, so none is let go for a pause
BESIDE = 64  # requests of a replica beside those that generate: lists, scrapes, registrations
DOOR_REQUESTS = 4096
SURGE_PERCENT = 100
STARTS = 3  # of a replica, before what keeps it from starting is told


class ServeDoor:
    """The deployment that Serve's HTTP proxy calls."""

    def __init__(self, replicas: DeploymentHandle, http: HttpConfig) -> None:
        self._opening = asyncio.ensure_future(_open(replicas, http))

    async def __call__(self, request: Request) -> Response:
        return _Answered(await asyncio.shield(self._opening))

    def check_health(self) -> None:
        """A door that could not open is replaced."""
        if self._opening.done():
            self._opening.result()


async def _open(replicas: DeploymentHandle, http: HttpConfig) -> Door:
    base_name = await replicas.options(method_name="base_name").remote()
    bounds = Bounds(http.max_body_bytes, http.max_adapter_bytes, http.is_open)
    keys = Keyring(Path(http.api_keys)) if http.api_keys else None
    return Door(ServeEngines(replicas), base_name, bounds, Gate(keys, open_metrics=http.open_metrics))


class _Answered(Response):
    """What the door answers, as Serve wants it: a response that is an ASGI application."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def once(message: Message) -> None:
            """Serve has given the request an id and tells it in the answer, so ours would be there twice."""
            if message["type"] == "http.response.start":
                kept = [each for each in message["headers"] if each[0].lower() != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self._door(scope, receive, once)


def application(config: ServerConfig) -> Application:
    """`config` as `lorikeet serve` takes it."""
    training = replace(config.training, training_jobs=0)  # that is one folder's business
    here = replace(config, training=training)
    door = serve.deployment(
        name="Door",
        max_ongoing_requests=DOOR_REQUESTS,
        max_queued_requests=DOOR_REQUESTS,
        num_replicas=1,
        max_surge_percent=SURGE_PERCENT,
        graceful_shutdown_timeout_s=_longest_s(config)
        + HUNG_S,  # after the replicas whose answers it passes on
        ray_actor_options={"num_cpus": 0},
    )(ServeDoor)
    return door.bind(_replicas(here).bind(here), config.http)


def build(args: dict[str, Any]) -> Application:
    """For `serve deploy`: `args` are flags of `lorikeet serve` without their dashes, as in its `--config` file."""
    config = read_arguments(args)
    start_owner(config, "")
    return application(config)


def _longest_s(config: ServerConfig) -> float:
    """Until a request that was taken has its ending, whatever it asked for."""
    return config.http.request_seconds + HUNG_S


def _replicas(config: ServerConfig) -> Any:
    """Old replicas of an update go on until the new ones are ready, where there are GPUs for both."""
    gpus = gpus_of(config.model.device)
    cluster, slots = config.cluster, config.engine.max_slots
    options: dict[str, Any] = {"num_replicas": cluster.replicas}
    if cluster.most_replicas > cluster.replicas:
        options = {
            "autoscaling_config": {
                "min_replicas": cluster.replicas,
                "max_replicas": cluster.most_replicas,
                "target_ongoing_requests": slots,  # those that wait count, too
                "upscale_delay_s": MORE_AFTER_S,
                "downscale_delay_s": FEWER_AFTER_S,
            }
        }
    return serve.deployment(
        name="Engine",
        max_ongoing_requests=config.http.max_open_requests + BESIDE,
        max_constructor_retry_count=STARTS,
        max_surge_percent=SURGE_PERCENT if has_room(2 * cluster.replicas * gpus) else 0,
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=HUNG_S,
        graceful_shutdown_timeout_s=_longest_s(config),  # requests end by themselves before
        request_router_config={
            "request_router_class": AffinityRouter,
            "request_router_kwargs": {"slots": slots},
        },
        ray_actor_options={"num_cpus": cluster.replica_cpus, "num_gpus": gpus},
        **options,
    )(Replica)


def gpus_of(device: str) -> int:
    """Of each replica. Ray shows it its own, so that one is all that it sees."""
    if device == "auto":
        return 1 if has_room(1) else 0
    return 0 if device == "cpu" else 1


def has_room(gpus: int) -> bool:
    """Whether the cluster has so many, free or not."""
    return bool(ray.cluster_resources().get("GPU", 0) >= gpus)
