"""`lorikeet serve` from its first word to its last: what can be refused cheaply, the parts, the listening."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from starlette.applications import Starlette

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.record import AdapterRecord
from lorikeet_adapters.store import Store, open_store
from lorikeet_server.api import access_log
from lorikeet_server.api.services import Services
from lorikeet_server.checks import check_all
from lorikeet_server.config import Console, HttpConfig, ServerConfig
from lorikeet_server.examples import examples_of
from lorikeet_server.keyring import Keyring
from lorikeet_server.request_log.log import RequestLog, opened
from lorikeet_server.stock import wanted_folders

log = logging.getLogger("lorikeet")


def run(config: ServerConfig, started: float) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises LorikeetError with one line of reason when it cannot.

    `started` is a reading of `time.monotonic()`. What costs nothing to refuse is refused first: torch
    and transformers take seconds to import.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("transformers.tokenization_utils_base").addFilter(_is_news)
    keys = check_all(config)
    access_log.switch(config.http.access_log)
    if config.cluster.ray_address:
        http = (
            replace(config.http, console=Console.OFF) if config.http.console is Console.AUTO else config.http
        )
        config = replace(config, http=http)  # the cluster's proxies may listen elsewhere than --host says
        _serve_on_ray(config, wanted_folders(config.adapters), started)
        return
    listener, http = listen(config.http)
    with listener:
        wanted = wanted_folders(config.adapters)
        if config.cluster.ray:
            listener.close()  # whoever serves takes it again, in a process of its own
            _serve_on_ray(replace(config, http=http), wanted, started)
            return
        with open_store(config.data_dir) as store, opened(config.log, store.folder) as kept:
            store.announce(http.url)
            log.info("loading the base %s; %s answers once it is tested", config.model.source, http.url)
            settled = replace(config, http=http)
            _serve(settled, store, wanted, listener, keys=keys, kept=kept, started=started)


def _serve_on_ray(config: ServerConfig, wanted: dict[str, Path], started: float) -> None:
    from lorikeet_server.cluster.start import run_on_ray

    run_on_ray(config, wanted, started)


def _is_news(record: logging.LogRecord) -> bool:
    """transformers warns of a prompt over the context, which is a refusal of ours with its own message."""
    return "sequence length is longer than" not in record.getMessage()


def listen(http: HttpConfig) -> tuple[socket.socket, HttpConfig]:
    """Take the port before anything is loaded, so that an occupied one is known at once. Port 0 becomes a real one.

    Whoever connects from now on is answered once the base is loaded. A port that is bound without
    listening could be bound again by a second server.
    """
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((http.host, http.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise RefusedError(
            f"cannot listen on {http.host}:{http.port}: {error.strerror}; choose another --port"
        ) from error
    return listener, replace(http, port=listener.getsockname()[1])


def _serve(
    config: ServerConfig,
    store: Store,
    wanted: Mapping[str, Path],
    listener: socket.socket,
    *,
    keys: Keyring | None,
    kept: RequestLog | None,
    started: float,
) -> None:
    from lorikeet_adapters.threads import in_passing
    from lorikeet_server.api.app import create_app
    from lorikeet_server.assembly import assemble, spare_what_stays
    from lorikeet_server.drain import serve_until_stopped

    house = in_passing(lambda: assemble(config, store, wanted, keys=keys, log=kept))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        house.bridge.start()
        house.jobs.start()
        if kept is not None:
            kept.start()
        _announce(config, house.services, time.monotonic() - started)
        house.registry.verifier.start()
        yield
        await house.bridge.stop()

    app = create_app(house.services, lifespan)
    spare_what_stays()
    serve_until_stopped(app, listener, house.bridge, house.jobs, config.http.drain_seconds)
    house.grammars.close()
    house.registry.close()


def _announce(config: ServerConfig, services: Services, seconds: float) -> None:
    base = services.model
    held = ", ".join(f"{size / 1e6:.1f} MB {dtype}" for dtype, size in sorted(base.bytes_by_dtype.items()))
    log.info("base %s as %s on %s: %s", base.name, base.quantization, base.device, held)
    tested = base.self_test
    log.info(
        "self-test: worst difference %.2g of the logits' deviation, bound %g",
        tested["difference_std"],
        tested["bound_std"],
    )
    records = services.registry.records()
    fitting = [record.name for record in records if not record.findings]
    log.info("adapters: %s", ", ".join(fitting) or "none yet")
    _warn_of_misfits(records, base.name)
    if config.log.request_log:
        days = config.log.request_log_days
        log.info("prompts and answers are kept for %d days; --request-log says so", days)
    log.info("ready after %.1f s on %s", seconds, config.http.url)
    if config.http.shows_console:
        log.info("console: %s/", config.http.url)
    if config.model.source == "demo":
        print(
            "\nTry:\n",
            *(
                f"  {example.curl(config.http.url, with_key=services.keys is not None)}\n"
                for example in examples_of(fitting, base.name)
            ),
            sep="\n",
            flush=True,
        )


def _warn_of_misfits(records: Sequence[AdapterRecord], base: str) -> None:
    """Those that do not fit this base, or are damaged: a line each, with the first reason of how many."""
    for record in (each for each in records if each.findings):
        count = len(record.findings)
        log.warning(
            "adapter %s is not served on the base %s and answered 409: %s%s",
            *(record.name, base, record.findings[0]["message"]),
            f", and {count - 1} more" if count > 1 else "",
        )
