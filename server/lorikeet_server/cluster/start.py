"""`lorikeet serve --ray`: a cluster where there is none, the owner, the application, and their end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ray
from ray import serve

from lorikeet_adapters.errors import RefusedError
from lorikeet_server.cluster.application import NAME, application, gpus_of, has_room
from lorikeet_server.cluster.arguments import rooted
from lorikeet_server.cluster.registry import start_owner, stop_owner
from lorikeet_server.config import ClusterConfig, ServerConfig
from lorikeet_server.desk import Place
from lorikeet_server.server_desk import ServerDesk

log = logging.getLogger("lorikeet")
POLL_S = 0.1
ENDING_S = 40.0  # for the engine's last step, and the answers
OWN_CORES = 1  # of a cluster begun here, beside the replicas': Ray's own processes


class _Told(BaseException):
    """To stop, while the cluster is being begun."""


def run_on_ray(config: ServerConfig, wanted: dict[str, Path], started: float) -> None:
    """Raises LorikeetError. `config` has been checked.

    On a cluster of its own until SIGTERM or Ctrl-C. On one that was there it deploys and returns: the
    application stays, and the same command with other flags replaces its replicas.
    """
    config = rooted(config, Path.cwd())
    with suppress(_Told):
        _join(config.cluster)
        _hear(_tell)
        try:
            _deploy(config)
            for name, folder in wanted.items():
                ServerDesk(config.http.url).add(Place(str(folder), "main"), name, True, ())
            address = ray.get_runtime_context().gcs_address
            log.info(
                "ready in %.1f s: %d replicas behind %s, on the cluster %s",
                *(time.monotonic() - started, config.cluster.replicas, config.http.url, address),
            )
            if not config.cluster.ray_address:
                _stay(config.http.drain_seconds)
        finally:
            ray.shutdown()


def _hear(told: Callable[[], None]) -> None:
    """After Ray, which has handlers of its own."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: told())


def _tell() -> None:
    raise _Told


def _stay(seconds: int) -> None:
    """Until a signal; then every request has its ending before the replicas go. A second signal does not wait."""
    told: list[None] = []  # an event would be set by a handler within a handler, and its lock is taken then
    _hear(lambda: told.append(None))
    while not told:
        time.sleep(POLL_S)
    log.info("stopping: what runs may finish within %d s; a second signal ends it", seconds)
    draining = threading.Thread(target=_drain, args=(seconds,), daemon=True)
    draining.start()
    while draining.is_alive() and len(told) < 2:
        draining.join(POLL_S)
    if len(told) > 1:
        _drain(0)
    serve.delete(NAME)
    stop_owner()


def _drain(seconds: float) -> None:
    """All replicas at once: nothing new is taken, and what still runs then is ended with its answer."""
    try:
        serve.get_deployment_handle("Engine", NAME).broadcast("drain", seconds).results(
            timeout_s=seconds + ENDING_S, return_exceptions=True
        )
    except Exception as error:  # whatever is wrong with them, they are about to go
        log.warning("the replicas could not be told to stop: %s", error)


def _deploy(config: ServerConfig) -> None:
    gpus = config.cluster.replicas * gpus_of(config.model.device)
    if not has_room(gpus):
        raise RefusedError(
            f"{config.cluster.replicas} replicas need {gpus} GPUs, the cluster has fewer; say fewer --replicas, or --device cpu"
        )
    start_owner(config, config.http.url)
    quiet = {"log_level": "WARNING", "enable_access_log": False}  # replicas write an access log of their own
    serve.start(
        proxy_location="EveryNode" if config.cluster.ray_address else "HeadOnly",
        http_options={"host": config.http.host, "port": config.http.port},
        logging_config=quiet,
    )
    try:
        serve.run(application(config), name=NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:  # Serve's word for replicas that do not start
        raise RefusedError(f"the replicas do not start: {error}") from error


def _join(cluster: ClusterConfig) -> None:
    """Ray reports home by default; whoever serves with us has not agreed to that."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if cluster.ray_address:
        try:
            ray.init(cluster.ray_address)
        except ConnectionError as error:
            raise RefusedError(f"no Ray cluster answers at --ray-address {cluster.ray_address}") from error
        return
    # Twice: in an update the old replicas go on until the new ones are ready.
    cores = cluster.most_replicas * cluster.replica_cpus * 2 + OWN_CORES
    ray.init("local", num_cpus=max(cores, os.cpu_count() or 1), include_dashboard=False)
