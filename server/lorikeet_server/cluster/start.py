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

from lorikeet_server.cluster.application import NAME, application
from lorikeet_server.cluster.registry import start_owner, stop_owner
from lorikeet_server.config import ServerConfig
from lorikeet_server.desk import Place
from lorikeet_server.server_desk import ServerDesk

log = logging.getLogger("lorikeet")
OWN_CORES = 1  # of a cluster begun here, beside the replicas': Ray's own processes


def run_on_ray(config: ServerConfig, wanted: dict[str, Path], started: float) -> None:
    """Until SIGTERM or Ctrl-C. `config` has been checked, and its port is free. Raises LorikeetError."""
    config = replace(config, data_dir=config.data_dir.resolve())
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    _join(config)
    try:
        start_owner(config)
        where = {"host": config.http.host, "port": config.http.port}
        serve.start(
            proxy_location="EveryNode" if config.cluster.ray_address else "HeadOnly", http_options=where
        )
        serve.run(application(config), name=NAME, route_prefix="/")
        for name, folder in wanted.items():
            ServerDesk(config.http.url).add(Place(str(folder), "main"), name, True, ())
        log.info(
            "ready in %.1f s: %d replicas behind %s",
            time.monotonic() - started,
            config.cluster.replicas,
            config.http.url,
        )
        stop.wait()
        log.info("stopping: replicas finish what runs, up to %d s", config.http.drain_seconds)
        serve.delete(NAME)
        stop_owner()
    finally:
        ray.shutdown()


def _join(config: ServerConfig) -> None:
    """Ray reports home by default; whoever serves with us has not agreed to that."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.cluster.ray_address:
        ray.init(config.cluster.ray_address, log_to_driver=True)
        return
    cores = config.cluster.most_replicas * config.cluster.replica_cpus
    # Twice: in a rolling update the old replicas go on until the new ones are ready.
    ray.init(num_cpus=max(cores * 2 + OWN_CORES, os.cpu_count() or 1), include_dashboard=False)
