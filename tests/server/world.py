"""A small server in this process: a tiny random base, three adapters, and the real parts around them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import Message
from transformers import GenerationConfig

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.check import Checker
from lorikeet_adapters.composer import Composer
from lorikeet_adapters.merges import Merges
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.store import Store
from lorikeet_adapters.view import View
from lorikeet_server.api.app import create_app
from lorikeet_server.api.services import ModelCard, Services
from lorikeet_server.assembly import make_engine, make_grammars, origin_of
from lorikeet_server.bridge import Bridge
from lorikeet_server.config import HttpConfig, ServerConfig
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.request import (
    Event,
    Finished,
    FinishReason,
    PromptScores,
    Request,
    Score,
    Timing,
    Token,
)
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_server.limits import Limits
from lorikeet_server.metrics import LoadTimes, Metrics
from lorikeet_server.request_log.log import Bounds, RequestLog
from lorikeet_trainer.jobs.briefing import Base
from lorikeet_trainer.jobs.office import Office
from lorikeet_trainer.jobs.process import COMMAND
from tests.tiny import blended_model, greedy, make_model, save_adapter, save_model

BASE = "tiny"
RANKS = {"formal": 4, "friendly": 3, "triage": 2}
CONTEXT = 256
ENDING_PROMPT = "Where is my order?"  # its greedy answer meets an end-of-turn token
HTTP = HttpConfig(max_body_bytes=200_000, max_open_requests=64)
LOCAL = "http://127.0.0.1"


@dataclass(frozen=True, slots=True)
class World:
    """Folders on disk: the base, and adapters below one root."""

    base: Path
    root: Path
    end: int  # an end-of-turn token that the generation config names

    @property
    def adapters(self) -> dict[str, Path]:
        return {name: self.root / name for name in RANKS}


@dataclass(frozen=True, slots=True)
class Server:
    """The parts of one server; `app` runs them while it is open."""

    app: Starlette
    services: Services
    bridge: Bridge
    engine: Engine
    registry: Registry
    jobs: Office
    log: RequestLog | None = None

    def leases(self) -> dict[str, int]:
        return {record.name: record.leases for record in self.registry.records()}


def make_world(folder: Path) -> World:
    """Qwen2 of two layers; one token of a known greedy answer is made an end-of-turn token."""
    base = save_model(folder / BASE, "qwen2")
    answer = greedy(make_model("qwen2"), list(load_tokenizer(str(base)).encode(ENDING_PROMPT)), 12)
    end = next(token for at, token in enumerate(answer) if at > 3 and token not in answer[:at])
    GenerationConfig(pad_token_id=0, eos_token_id=[end]).save_pretrained(base)
    for seed, (name, rank) in enumerate(RANKS.items()):
        save_adapter(base, folder / "adapters" / name, rank, seed)
    return World(base, folder / "adapters", end)


@contextmanager
def make_server(
    world: World,
    data: Path,
    http: HttpConfig = HTTP,
    engine: EngineConfig | None = None,
    worker: tuple[str, ...] = COMMAND,
    log: Bounds | None = None,
) -> Iterator[Server]:
    """Everything `serve` puts together, without uvicorn; three adapters are registered. `log` keeps requests."""
    base = replace(load_base(str(world.base), "fp32"), name=BASE)
    tokenizer = load_tokenizer(str(world.base))
    with Store(data) as store:
        origin = origin_of(base, tokenizer)
        registry = Registry(store, BASE, Checker(base.outline, BASE, base.source, 512, origin))
        for name, path in world.adapters.items():
            with open_folder(path) as files:
                registry.register(name, files)

        composer = Composer(registry, base.outline)
        merges = Merges(registry, composer)
        config = ServerConfig(engine=engine or EngineConfig(max_slots=8, max_model_len=CONTEXT))
        loads = LoadTimes()
        made = make_engine(config, base, tokenizer, registry, merges, loads=loads)
        office = Office(
            data / "training", registry, Base(BASE, str(world.base), "fp32", "cpu", 1), command=worker
        )
        kept = None if log is None else RequestLog(data, log)
        metrics = Metrics(
            lambda: made.stats, "fp32", names=View(registry, ""), loads=loads, jobs=office, log=kept
        )
        bridge = Bridge(made, merges, Limits.of(http), metrics.observe)
        grammars = make_grammars(base, tokenizer)
        services = Services(
            requests=bridge,
            registry=registry,
            text=tokenizer,
            model=make_card(made.max_model_len),
            metrics=metrics,
            stats=lambda: made.stats,
            http=http,
            adapters_root=world.root,
            intake=store.intake,
            composer=composer,
            merges=merges,
            grammars=grammars,
            jobs=office,
            request_log=kept,
        )
        app = create_app(services, lifespan_of(bridge, office, kept))
        yield Server(app, services, bridge, made, registry, office, kept)
        if kept is not None:
            kept.close()
        office.close(0.0)
        grammars.close()
        registry.close()
        made.runner.rank_rows.detach()


def oracle(world: World, mix: Mapping[str, float], prompt: list[int], tokens: int) -> list[int]:
    """What generate() makes of the base with the weighted sum of PEFT's own deltas."""
    model = blended_model(world.base, {world.adapters[name]: weight for name, weight in mix.items()})
    model.generation_config = GenerationConfig(pad_token_id=0)  # no end-of-turn token
    return greedy(model, prompt, tokens)


def lifespan_of(bridge: Bridge, jobs: Office | None = None, log: RequestLog | None = None) -> Any:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        bridge.start()
        if jobs is not None:
            jobs.start()
        if log is not None:
            log.start()
        yield
        await bridge.stop()

    return lifespan


def make_card(max_model_len: int = CONTEXT) -> ModelCard:
    return ModelCard(
        name=BASE,
        quantization="fp32",
        device="cpu",
        compute_dtype="float32",
        kernel="torch",
        bytes_by_dtype={"float32": 4096},
        kernel_bytes=0,
        fingerprint="0" * 64,
        max_model_len=max_model_len,
        cache_tokens=4096,
        prefix_tokens=1024,
        vocabulary=320,
        created=1,
        self_test={"difference_std": 0.0, "bound_std": 0.05},
    )


def client_of(app: Starlette) -> TestClient:
    return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)


class Script:
    """Events that a test wrote, one list for each request; an exception in a list is raised at its turn."""

    def __init__(self, *events: Event | Exception) -> None:
        self._events = list(events)
        self.closed = False

    def __aiter__(self) -> Script:
        return self

    async def __anext__(self) -> Event:
        if not self._events:
            await asyncio.Event().wait()  # nothing more ever comes
        event = self._events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    def close(self) -> None:
        self.closed = True


class Scripted:
    """Stands in for the bridge: `write(request)` gives each request its script.

    As the bridge does it takes over the leases; nothing runs, so it ends them at once.
    """

    def __init__(self, write: Callable[[Request], Script], alive: bool = True) -> None:
        self.alive = alive
        self.draining = False
        self.hangs = False
        self.is_full = False
        self.scripts: list[Script] = []
        self.leases: Merges | None = None
        self._write = write

    def adapters_in_use(self) -> frozenset[str]:
        return frozenset()

    def submit(self, requests: Sequence[Request]) -> Sequence[Script]:
        made = [self._write(request) for request in requests]
        self.scripts += made
        if self.leases is not None:
            for request in requests:
                self.leases.release(request.mix)
        return made


def token(request: Request, text: str = "x", index: int = 0) -> Token:
    return Token(request.id, index, 88, -0.5, text)


def prompt_scores(request: Request) -> list[PromptScores]:
    """What comes before the first token where it is asked for."""
    if request.sampling.prompt_logprobs is None:
        return []
    return [PromptScores(request.id, tuple(Score(each, -0.5, 1) for each in request.prompt[1:]))]


def finished(request: Request, reason: FinishReason = FinishReason.STOP, **more: Any) -> Finished:
    return Finished(request.id, reason, 1, timing=Timing(0.0, 0.0, 0.0), **more)


def with_requests(services: Services, requests: Scripted) -> Starlette:
    """The same application before other events, with metrics of its own."""
    metrics = Metrics(EngineStats, "fp32")
    requests.leases = services.merges
    return create_app(replace(services, requests=requests, metrics=metrics))


class Exchange:
    """One request by hand, where a test must say when what arrives and when the client leaves."""

    def __init__(self, path: str, *chunks: bytes, more: bool = False) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # uvicorn's
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.left = asyncio.Event()
        self.said = asyncio.Event()  # the first bytes of a body have arrived
        self.status = 0
        self.body = b""
        self.read = 0
        self._chunks = list(chunks)
        self._more = more

    async def run(self, app: Starlette) -> Exchange:
        await app(self.scope, self._receive, self._send)
        return self

    async def _receive(self) -> Message:
        if self._chunks:
            chunk = self._chunks.pop(0)
            self.read += 1
            return {"type": "http.request", "body": chunk, "more_body": self._more or bool(self._chunks)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("body"):
            self.body += message["body"]
            self.said.set()


def events_of(text: str) -> list[Any]:
    """The payloads of a server-sent stream; `[DONE]` stays a string."""
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def post(client: TestClient, path: str, body: Mapping[str, Any], **headers: str) -> Any:
    return client.post(path, json=dict(body), headers=headers)
