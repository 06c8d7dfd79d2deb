"""A request's own time limit and the server's, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lorikeet_server.engine.config import EngineConfig
from tests.server.world import BASE, HTTP, World, client_of, make_server


@pytest.fixture
def client(world: World, tmp_path: Path) -> Iterator[TestClient]:
    http, engine = replace(HTTP, request_seconds=1), EngineConfig(max_slots=1)
    with make_server(world, tmp_path / "data", http, engine) as server, client_of(server.app) as client:
        yield client


def ask(client: TestClient, path: str = "/v1/completions", **more: object) -> tuple[int, dict[str, str]]:
    body = {"model": BASE, "prompt": "Go on", "max_tokens": 1500, "ignore_eos": True, **more}
    if path == "/generate":
        body = {"inputs": "Go on", "parameters": {"max_new_tokens": 1500, "ignore_eos_token": True}}
    answer = client.post(path, json=body)
    return answer.status_code, answer.json()


@pytest.mark.safety("reliability 3")
def test_a_request_that_takes_longer_than_it_may_is_a_504(client: TestClient) -> None:
    status, answer = ask(client, timeout=0.05)
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")  # type: ignore[index]
    assert ask(client, max_tokens=2, timeout=60)[0] == 200


@pytest.mark.safety("reliability 3")
def test_the_servers_own_bound_holds_for_whoever_asks_for_more(client: TestClient) -> None:
    for path in ("/v1/completions", "/generate"):
        assert ask(client, path, **({"timeout": 3600} if path != "/generate" else {}))[0] in (504, 424)


def test_a_stream_says_so_in_its_last_event(client: TestClient) -> None:
    body = {
        "model": BASE,
        "prompt": "Go on",
        "max_tokens": 1500,
        "ignore_eos": True,
        "stream": True,
        "timeout": 0.1,
    }
    text = client.post("/v1/completions", json=body).text
    assert '"code":"deadline_exceeded"' in text.strip().splitlines()[-1].replace(" ", "")


@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_a_time_that_is_none_is_refused_by_name(client: TestClient, timeout: object) -> None:
    status, answer = ask(client, timeout=timeout)
    assert (status, answer["error"]["param"]) == (400, "timeout")  # type: ignore[index]


def test_a_priority_has_bounds(client: TestClient) -> None:
    assert ask(client, max_tokens=1, priority=-5)[0] == 200
    assert ask(client, max_tokens=1, priority=5000)[0] == 400
