"""`lorikeet serve --ray`: a cluster where there is none, the owner, the application, and their end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import ray
from ray import serve

from lorikeet_adapters.errors import RefusedError
from lorikeet_server.cluster.application import NAME, application
from lorikeet_server.cluster.registry import start_owner, stop_owner
from lorikeet_server.config import ServerConfig
from lorikeet_server.desk import Place
from lorikeet_server.server_desk import ServerDesk

log = logging.getLogger("lorikeet")
OWN_CORES = 1  # of a cluster begun here, beside the replicas': Ray's own processes


def run_on_ray(config: ServerConfig, wanted: dict[str, Path], started: float) -> None:
    """Raises LorikeetError. `config` has been checked.

    On a cluster of its own until SIGTERM or Ctrl-C. On one that was there it deploys and returns: the
    application stays, and the same command with other flags replaces its replicas one after the other.
    """
    config = replace(config, data_dir=config.data_dir.resolve())
    stop = threading.Event()
    _join(config)
    for each in (signal.SIGTERM, signal.SIGINT):  # after Ray, which has its own
        signal.signal(each, lambda *_: stop.set())
    try:
        _deploy(config)
        for name, folder in wanted.items():
            ServerDesk(config.http.url).add(Place(str(folder), "main"), name, True, ())
        log.info(
            "ready in %.1f s: %d replicas behind %s",
            time.monotonic() - started,
            config.cluster.replicas,
            config.http.url,
        )
        if not config.cluster.ray_address:
            stop.wait()
            log.info("stopping: replicas finish what runs, up to %d s", config.http.drain_seconds)
            serve.delete(NAME)
            stop_owner()
    finally:
        ray.shutdown()


def _deploy(config: ServerConfig) -> None:
    start_owner(config)
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


def _join(config: ServerConfig) -> None:
    """Ray reports home by default; whoever serves with us has not agreed to that."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = config.cluster
    if cluster.ray_address:
        ray.init(cluster.ray_address)
        return
    # Twice: in a rolling update the old replicas go on until the new ones are ready.
    cores = cluster.most_replicas * cluster.replica_cpus * 2 + OWN_CORES
    ray.init("local", num_cpus=max(cores, os.cpu_count() or 1), include_dashboard=False)
