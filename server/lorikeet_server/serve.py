"""Putting the parts together: the base, the store, the registry, the engine, the application."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import FrameType

import torch
import uvicorn
from starlette.applications import Starlette

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.check import Checker
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store, open_store
from lorikeet_adapters.weights import AdapterWeights, load_weights
from lorikeet_server.api.app import create_app
from lorikeet_server.api.services import ModelCard, Services
from lorikeet_server.bridge import Bridge
from lorikeet_server.config import HttpConfig, ModelConfig, ServerConfig
from lorikeet_server.engine.engine import Engine, Vocabulary
from lorikeet_server.engine.selftest import SelfTest, self_test
from lorikeet_server.engine.tokenizer import Tokenizer, load_tokenizer
from lorikeet_server.examples import EXAMPLES
from lorikeet_server.metrics import Metrics
from lorikeet_server.stock import offer_embedded, register_wanted, warn_of_hidden

log = logging.getLogger("lorikeet")
DRAIN_S = 20


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises LorikeetError with one line of reason when it cannot."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    if not config.http.is_loopback and not config.http.insecure:
        raise RefusedError(
            f"{config.http.host} can be reached by others and there are no keys; "
            "listen on 127.0.0.1, or say --insecure if something in front of the server protects it"
        )
    started = time.monotonic()
    listener, http = listen(config.http)
    with listener, open_store(config.data_dir) as store:
        store.announce(http.url)
        _serve(replace(config, http=http), store, listener, started)


def listen(http: HttpConfig) -> tuple[socket.socket, HttpConfig]:
    """Take the port before anything is loaded, so that an occupied one is known at once. Port 0 becomes a real one."""
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((http.host, http.port))
    except OSError as error:
        listener.close()
        raise RefusedError(
            f"cannot listen on {http.host}:{http.port}: {error.strerror}; choose another --port"
        ) from error
    return listener, replace(http, port=listener.getsockname()[1])


def _serve(config: ServerConfig, store: Store, listener: socket.socket, started: float) -> None:
    base = load_base(
        config.model.source,
        config.model.quantization,
        _device(config.model),
        trust_remote_code=config.model.trust_remote_code,
    )
    base = replace(base, name=config.model.served_name or base.name)
    tokenizer = load_tokenizer(config.model.source, config.model.trust_remote_code)
    registry = Registry(store, base.name, Checker(base.outline, base.name, base.source))
    engine = make_engine(config, base, tokenizer, registry)
    registry.on_retired = engine.retire
    store.remember_base(config.model.source, base.name)
    tested = self_test(base, config.engine.kernel)
    if config.model.source == "demo":
        offer_embedded(registry, store)
    register_wanted(registry, config.adapters)
    warn_of_hidden(registry)
    metrics = Metrics(lambda: engine.stats, base.quantization)
    bridge = Bridge(engine, registry, config.http.max_open_requests, metrics.observe)
    services = Services(
        requests=bridge,
        registry=registry,
        text=tokenizer,
        model=_card(base, engine, tested),
        metrics=metrics,
        stats=lambda: engine.stats,
        http=config.http,
        adapters_root=config.adapters_root,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        bridge.start()
        _announce(config, base, registry, tested, time.monotonic() - started)
        yield
        await bridge.stop()

    _run_uvicorn(create_app(services, lifespan), listener)
    registry.close()


def make_engine(config: ServerConfig, base: BaseModel, tokenizer: Tokenizer, registry: Registry) -> Engine:
    def fetch(generation: str) -> AdapterWeights:
        found = registry.locate(generation)
        return load_weights(found.weights, found.spec, base.outline, base.compute_dtype)

    return Engine(base, config.engine, Vocabulary(tokenizer.decode, tokenizer.eos), fetch)


def _run_uvicorn(app: Starlette, listener: socket.socket) -> None:
    settings = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )

    def stopped(number: int, frame: FrameType | None) -> None:
        """uvicorn has shut down and raises the signal once more; the process ends by itself, with 0."""

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopped)
    asyncio.run(uvicorn.Server(settings).serve(sockets=[listener]))


def _device(model: ModelConfig) -> str:
    if model.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(model.device).type
    except RuntimeError:
        kind = "unknown"
    if kind not in ("cpu", "cuda"):
        raise RefusedError(f"--device {model.device} is none of auto, cpu, cuda, cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise RefusedError(f"--device {model.device}: this machine has no usable CUDA device")
    return model.device


def _card(base: BaseModel, engine: Engine, tested: SelfTest) -> ModelCard:
    return ModelCard(
        name=base.name,
        quantization=base.quantization,
        device=str(base.device),
        compute_dtype=str(base.compute_dtype).removeprefix("torch."),
        bytes_by_dtype=base.bytes_by_dtype,
        fingerprint=base.fingerprint,
        max_model_len=engine.max_model_len,
        vocabulary=base.model.config.get_text_config().vocab_size,
        created=int(time.time()),
        self_test={"difference_std": tested.difference, "bound_std": tested.bound},
    )


def _announce(
    config: ServerConfig, base: BaseModel, registry: Registry, tested: SelfTest, seconds: float
) -> None:
    held = ", ".join(f"{size / 1e6:.1f} MB {dtype}" for dtype, size in sorted(base.bytes_by_dtype.items()))
    log.info("base %s as %s on %s: %s", base.name, base.quantization, base.device, held)
    log.info(
        "self-test: worst difference %.2g of the logits' deviation, bound %g", tested.difference, tested.bound
    )
    log.info("adapters: %s", ", ".join(record.name for record in registry.records()) or "none yet")
    log.info("ready after %.1f s on %s", seconds, config.http.url)
    if config.model.source == "demo":
        print(
            "\nTry:\n",
            *(f"  {example.curl(config.http.url)}\n" for example in EXAMPLES),
            sep="\n",
            flush=True,
        )
