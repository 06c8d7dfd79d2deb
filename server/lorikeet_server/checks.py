"""What costs nothing to refuse, before torch is imported or a cluster begun."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import RefusedError
from lorikeet_server.api.cors import check_origins
from lorikeet_server.config import Console, HttpConfig, ServerConfig
from lorikeet_server.device import check_device
from lorikeet_server.keyring import Keyring, Scope, add_key

KEY = "LORIKEET_API_KEY"  # of the scope admin, for what a command sends to a server


def check_all(config: ServerConfig) -> Keyring | None:
    """The keys that protect the server, where there are any. Raises RefusedError."""
    check_cluster(config)
    keys = open_keys(config.http)
    check_origins(config.http.cors_origins, has_keys=keys is not None)
    check_source(config.model.source)
    check_device(config.model.device)
    return keys


def check_cluster(config: ServerConfig) -> None:
    """Raises RefusedError for what several replicas do not do, and where Ray is not installed."""
    if not config.cluster.ray:
        if config.cluster.ray_address or config.cluster.max_replicas:
            raise RefusedError("--ray-address and --max-replicas mean nothing without --ray")
        return
    if config.cluster.ray_address and not config.http.port:
        raise RefusedError("--port 0 is not known to a cluster; say the port that its proxies listen on")
    if config.log.request_log:
        raise RefusedError("--request-log keeps what one server answered; leave out it or --ray")
    if config.adapters and config.http.api_keys and not os.environ.get(KEY):
        raise RefusedError(f"--adapter with --ray registers over HTTP; set {KEY} to a key of scope admin")
    if config.http.make_key and config.adapters:
        raise RefusedError("--adapter with --ray needs a key that is there; make it with `lorikeet keys new`")
    if find_spec("ray") is None:
        raise RefusedError("--ray needs Ray, which is not installed: pip install 'lorikeet[ray]'")


def open_keys(http: HttpConfig) -> Keyring | None:
    """The keys that protect the server, or None where the loopback or `--insecure` stands for them.

    Raises RefusedError when nothing does.
    """
    if not http.api_keys:
        if http.make_key or http.open_metrics:
            raise RefusedError("--make-key and --open-metrics mean nothing without --api-keys FILE")
        if http.console is Console.ON and (http.insecure or not http.is_loopback):
            raise RefusedError(
                "--console on where others can reach the server means nothing without --api-keys FILE: "
                "whoever opens the page could change everything"
            )
        if not http.is_loopback and not http.insecure:
            raise RefusedError(
                f"{http.host} can be reached by others and there are no keys; give it --api-keys FILE, "
                "listen on 127.0.0.1, or say --insecure if something in front of the server protects it"
            )
        return None
    if http.insecure:
        raise RefusedError("--insecure means to serve without keys, and --api-keys with them; say one")
    path = Path(http.api_keys)
    if http.make_key and not path.exists():
        secret = add_key(path, "first", list(Scope), None)
        print(f"\nThe first key, shown this once, with every scope: {secret}\n", flush=True)
    return Keyring(path)
