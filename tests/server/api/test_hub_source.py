"""`source: {"type": "hub"}` over HTTP: off unless the operator said so, and never with a client's own endpoint."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.adapters.hub import COMMIT, Hub, Repo, run_hub
from tests.server.world import HTTP, Exchange, Server, World, client_of, make_server

ROUTE = "/v1/adapters"
BODY = {"name": "fetched", "source": {"type": "hub", "repo": "acme/support"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub-data")


@pytest.fixture(scope="module")
def made(world: World, data: Path) -> Iterator[Server]:
    with make_server(world, data, replace(HTTP, allow_hub=True)) as server:
        yield server


@pytest.fixture(scope="module")
def fetcher(made: Server) -> Iterator[TestClient]:
    with client_of(made.app) as client:
        yield client


@pytest.fixture
def hub(
    world: World, made: Server, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Hub]:
    with run_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        running.repos["acme/support"] = Repo(
            {each.name: each.read_bytes() for each in world.adapters["formal"].iterdir()}
        )
        yield running
        assert not list((data / "incoming").iterdir())


@pytest.mark.safety("security 3")
def test_off_by_default_and_then_nothing_is_asked(client: TestClient, hub: Hub) -> None:
    for query in ("", "?dry_run=true"):
        answer = client.post(ROUTE + query, json=BODY)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "source.type")
        assert "--allow-hub" in answer.json()["error"]["message"]
    assert hub.asked == []


def test_a_repository_is_registered_with_its_commit(fetcher: TestClient, hub: Hub) -> None:
    answer = fetcher.post(ROUTE, json=BODY)
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record["source"] == {"type": "hub", "repo": "acme/support", "revision": "main", "commit": COMMIT}
    assert record["generation"] == fetcher.get(f"{ROUTE}/formal").json()["generation"]
    assert fetcher.get(f"{ROUTE}/fetched").json() == record
    assert fetcher.delete(f"{ROUTE}/fetched").status_code == 200


def test_a_dry_run_and_a_refusal(fetcher: TestClient, hub: Hub) -> None:
    answer = fetcher.post(f"{ROUTE}?dry_run=true", json=BODY)
    assert answer.json() == {"loadable": True, "findings": [], "warnings": []}
    asked = {**BODY, "source": {**BODY["source"], "revision": "v9"}}  # type: ignore[dict-item]
    verdict = fetcher.post(f"{ROUTE}?dry_run=true", json=asked).json()
    assert [each["code"] for each in verdict["findings"]] == ["hub_not_found"]
    answer = fetcher.post(ROUTE, json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_adapter")
    assert fetcher.get(f"{ROUTE}/fetched").status_code == 404


@pytest.mark.safety("security 3")
@pytest.mark.parametrize(
    ("source", "status", "param"),
    [
        ({"type": "hub", "repo": "acme/support", "endpoint": "http://evil.example"}, 400, "source.endpoint"),
        ({"type": "hub", "repo": "acme/support", "token": "hf_x"}, 400, "source.token"),
        ({"type": "hub", "repo": "acme/support", "path": "x"}, 400, "source.path"),
        ({"type": "hub"}, 400, "source.repo"),
        ({"type": "hub", "repo": 5}, 400, "source.repo"),
        ({"type": "hub", "repo": "acme/support", "revision": ""}, 400, "source.revision"),
        ({"type": "hub", "repo": "http://169.254.169.254/x"}, 422, "source"),
        ({"type": "hub", "repo": "org/.."}, 422, "source"),
        ({"type": "url", "url": "http://evil.example"}, 400, "source.type"),
        ({"repo": "acme/support"}, 400, "source.type"),
    ],
    ids=str,
)
def test_a_request_names_a_repository_and_nothing_else(
    fetcher: TestClient, hub: Hub, source: dict[str, object], status: int, param: str | None
) -> None:
    answer = fetcher.post(ROUTE, json={"name": "fetched", "source": source})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert hub.asked == []


def test_a_client_that_leaves_ends_the_fetch(made: Server, fetcher: TestClient, hub: Hub) -> None:
    reached, release = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        reached.set()
        release.wait(60)

    hub.hold = hold

    async def scenario() -> None:
        exchange = Exchange(ROUTE, json.dumps(BODY).encode())
        running = asyncio.ensure_future(exchange.run(made.app))
        assert await asyncio.to_thread(reached.wait, 60)
        exchange.left.set()
        await asyncio.wait_for(running, 10)
        assert exchange.status == 499
        assert not made.app.state.intakes

    asyncio.run(scenario())
    release.set()
    assert fetcher.get(f"{ROUTE}/fetched").status_code == 404


def test_a_fetch_does_not_hold_up_the_others(made: Server, fetcher: TestClient, hub: Hub) -> None:
    reached, release = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        reached.set()
        release.wait(60)

    hub.hold = hold
    answers: list[int] = []
    fetching = threading.Thread(target=lambda: answers.append(fetcher.post(ROUTE, json=BODY).status_code))
    fetching.start()
    assert reached.wait(60)
    body = {"model": "formal", "prompt": "Hello", "max_tokens": 2}
    assert fetcher.post("/v1/completions", json=body).status_code == 200
    release.set()
    fetching.join()
    assert answers == [201]
    fetcher.delete(f"{ROUTE}/fetched")
