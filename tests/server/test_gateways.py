"""A running server against what gateways document: the endpoint picker's scrape and the sidecar's calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from lorikeet_adapters.access import Access
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from tests.server.keyed import keyed
from tests.server.picker import Seen, affinity, pick, read, sync
from tests.server.process import ServerProcess
from tests.server.world import BASE, CONTEXT, RANKS, Server, World, client_of, make_server, post
from tests.tiny import save_adapter

SCRAPE = "/metrics/vllm"
WEIGHTS = {"queue-scorer": 2.0, "kv-cache-utilization-scorer": 2.0, "lora-affinity-scorer": 3.0}
WAIT_S = 30.0


@pytest.fixture
def narrow(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Its rows hold `formal` or `triage`, never both, and a step takes long enough to be looked at."""
    step = Engine.step

    def slow(engine: Engine) -> Any:
        time.sleep(0.005)
        return step(engine)

    monkeypatch.setattr(Engine, "step", slow)
    engine = EngineConfig(max_slots=2, max_model_len=CONTEXT, rank_rows=RANKS["formal"], host_adapter_bytes=0)
    with (
        make_server(world, tmp_path / "data", engine=engine) as server,
        client_of(server.app) as client,
    ):
        yield client


def seen(client: Any) -> Seen:
    answer = client.get(SCRAPE)
    assert answer.status_code == 200
    return read(answer.text)


def until(client: Any, holds: Callable[[Seen], bool]) -> Seen:
    deadline = time.monotonic() + WAIT_S
    while not holds(now := seen(client)):
        assert time.monotonic() < deadline, now
    return now


def asked(client: TestClient, model: str, tokens: int) -> threading.Thread:
    body = {"model": model, "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True}
    thread = threading.Thread(target=post, args=(client, "/v1/completions", body))
    thread.start()
    return thread


def test_a_scrape_tells_what_is_loaded_what_waits_what_made_room_and_what_is_gone(narrow: TestClient) -> None:
    start = seen(narrow)
    assert (start.queued, start.requests, start.active, start.waiting) == (0, 0, frozenset(), frozenset())
    assert start.most == RANKS["formal"]
    assert start.block * start.blocks > 0
    first = asked(narrow, "formal", 200)
    until(narrow, lambda now: now.active == {"formal"} and now.requests == 1)
    second = asked(narrow, "triage", 200)
    full = until(narrow, lambda now: bool(now.waiting) and now.queued == 1)
    assert full.active == {"formal"}
    assert full.waiting == {"triage"}
    assert 0 < full.cache <= 1
    first.join(WAIT_S)
    swapped = until(narrow, lambda now: now.active == {"triage"})
    assert (swapped.waiting, swapped.queued) == (frozenset(), 0)
    second.join(WAIT_S)
    idle = until(narrow, lambda now: now.requests == 0)
    assert idle.active == {"triage"}, "nobody asks for it, and whoever does is best sent here"
    assert post(narrow, "/v1/unload_lora_adapter", {"lora_name": "triage"}).status_code == 200
    assert until(narrow, lambda now: not now.active).waiting == frozenset()


def test_a_request_is_sent_where_its_adapter_is_unless_the_queue_there_is_long(server: Server) -> None:
    with client_of(server.app) as client:
        empty = seen(client)
        body = {"model": "formal", "prompt": "Hello", "max_tokens": 2}
        assert post(client, "/v1/completions", body).status_code == 200
        loaded = seen(client)
    assert (affinity(loaded, "formal"), affinity(empty, "formal")) == (1.0, 0.8)
    assert affinity(loaded, BASE) == affinity(empty, BASE), "the base runs anywhere"
    assert pick({"other": empty, "one": loaded}, "formal", WEIGHTS) == "one"
    assert pick({"other": empty, "one": replace(loaded, queued=9)}, "formal", WEIGHTS) == "other"


def test_a_full_server_is_the_last_choice_and_one_where_it_waits_the_next() -> None:
    """As documented, of servers that are told to have no room."""
    full = Seen(0, 1, 0.5, frozenset({"a", "b"}), frozenset({"c"}), 2, 16, 8)
    assert [affinity(full, each) for each in "acd"] == [1.0, 0.6, 0.0]


def test_a_pod_is_scraped_and_probed_by_its_address_without_a_key(server: Server, tmp_path: Path) -> None:
    host = {"host": "10.12.0.7:8000"}
    with keyed(server, tmp_path, open_metrics=True) as found:
        for path in (SCRAPE, "/startup", "/health", "/health/live", "/health/ready"):
            assert found.client.get(path, headers=host).status_code == 200, path
        read(found.client.get(SCRAPE, headers=host).text)
        load = {"lora_name": "fresh", "lora_path": "formal"}
        without = found.client.post("/v1/load_lora_adapter", json=load, headers=host)
        assert without.status_code == 401, "the sidecar has no key to send"
        assert found.by("operator").post("/v1/load_lora_adapter", json=load).status_code == 200


def test_what_a_tenant_calls_its_own_is_not_told_to_whoever_scrapes(server: Server, tmp_path: Path) -> None:
    server.registry.update("formal", access=Access.of({"acme"}))
    with keyed(server, tmp_path, open_metrics=True) as found:
        body = {"model": "formal", "prompt": "Hello", "max_tokens": 2}
        assert found.by("acme").post("/v1/completions", json=body).status_code == 200
        assert seen(found.client).active == frozenset()


def test_the_sidecars_rounds_over_http(process: ServerProcess, world: World) -> None:
    """List, load what is missing, unload what is not wanted; what failed is loaded in a later round."""
    wanted = {"sidecar-a": "formal", "sidecar-b": "sidecar-late"}
    with httpx.Client(base_url=process.url, timeout=WAIT_S) as client:
        assert sync(client, wanted, ["sidecar-c"]) == {"sidecar-a": 200, "sidecar-b": 404, "sidecar-c": 0}
        save_adapter(world.base, world.root / "sidecar-late", 2, 7)
        assert sync(client, wanted, []) == {"sidecar-a": 0, "sidecar-b": 200}
        assert sync(client, wanted, []) == {"sidecar-a": 0, "sidecar-b": 0}
        for model in wanted:
            body = {"model": model, "prompt": "Hello", "max_tokens": 2}
            assert client.post("/v1/completions", json=body).status_code == 200
        assert seen(client).active >= set(wanted)
        assert sync(client, {}, list(wanted)) == {"sidecar-a": 200, "sidecar-b": 200}
        assert sync(client, {}, list(wanted)) == {"sidecar-a": 0, "sidecar-b": 0}
        body = {"model": "sidecar-a", "prompt": "Hello", "max_tokens": 2}
        assert client.post("/v1/completions", json=body).status_code == 404
        until(client, lambda now: not now.active & set(wanted))
