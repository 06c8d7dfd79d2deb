"""A small server in this process: a tiny random base, three adapters, and the real parts around them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient
from transformers import GenerationConfig

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.check import Checker
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.store import Store
from lorikeet_server.api.app import create_app
from lorikeet_server.api.services import ModelCard, Requests, Services
from lorikeet_server.bridge import Bridge
from lorikeet_server.config import HttpConfig
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine, Vocabulary
from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_server.metrics import Metrics
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
    world: World, data: Path, http: HttpConfig = HTTP, engine: EngineConfig | None = None
) -> Iterator[Server]:
    """Everything `serve` puts together, without uvicorn; three adapters are registered."""
    base = replace(load_base(str(world.base), "fp32"), name=BASE)
    tokenizer = load_tokenizer(str(world.base))
    with Store(data) as store:
        registry = Registry(store, BASE, Checker(base.linears, BASE, base.source))
        for name, path in world.adapters.items():
            with open_folder(path) as files:
                registry.register(name, files)

        def fetch(generation: str) -> Any:
            from lorikeet_adapters.weights import load_weights

            found = registry.locate(generation)
            return load_weights(found.weights, found.spec, base.linears, base.compute_dtype)

        config = engine or EngineConfig(max_slots=8, max_model_len=CONTEXT)
        made = Engine(base, config, Vocabulary(tokenizer.decode, tokenizer.eos), fetch)
        registry.on_retired = made.retire
        metrics = Metrics(lambda: made.stats, "fp32")
        bridge = Bridge(made, registry, http.max_open_requests, metrics.observe)
        services = Services(
            requests=bridge,
            registry=registry,
            text=tokenizer,
            model=make_card(made.max_model_len),
            metrics=metrics,
            stats=lambda: made.stats,
            http=http,
            adapters_root=world.root,
        )
        yield Server(create_app(services, lifespan_of(bridge)), services, bridge, made, registry)
        registry.close()
        made.runner.rank_rows.detach()


def oracle(world: World, mix: Mapping[str, float], prompt: list[int], tokens: int) -> list[int]:
    """What generate() makes of the base with the weighted sum of PEFT's own deltas."""
    model = blended_model(world.base, {world.adapters[name]: weight for name, weight in mix.items()})
    model.generation_config = GenerationConfig(pad_token_id=0)  # no end-of-turn token
    return greedy(model, prompt, tokens)


def lifespan_of(bridge: Bridge) -> Any:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        bridge.start()
        yield
        await bridge.stop()

    return lifespan


def make_card(max_model_len: int = CONTEXT) -> ModelCard:
    return ModelCard(
        name=BASE,
        quantization="fp32",
        device="cpu",
        compute_dtype="float32",
        bytes_by_dtype={"float32": 4096},
        fingerprint="0" * 64,
        max_model_len=max_model_len,
        vocabulary=320,
        created=1,
        self_test={"difference_std": 0.0, "bound_std": 0.05},
    )


def client_of(app: Starlette) -> TestClient:
    return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)


def with_requests(services: Services, requests: Requests) -> Starlette:
    """The same application before other events."""
    return create_app(replace(services, requests=requests))


def events_of(text: str) -> list[Any]:
    """The payloads of a server-sent stream; `[DONE]` stays a string."""
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def post(client: TestClient, path: str, body: Mapping[str, Any], **headers: str) -> Any:
    return client.post(path, json=dict(body), headers=headers)
