"""Requests whose bodies are still on their way are bounded in number, and a full server is still seen to live."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lorikeet_server.api import lobby
from lorikeet_server.api.gate import NEEDS
from lorikeet_server.keyring import Scope
from tests.server.world import HTTP, Exchange, Script, Scripted, Server, finished, with_requests

pytestmark = pytest.mark.safety("reliability 3")
MOST = 5
WHOLE = b'{"model": "tiny", "prompt": "Hello", "max_tokens": 2}'


@pytest.fixture
def app(shared: tuple[Server, TestClient], monkeypatch: pytest.MonkeyPatch) -> Starlette:
    monkeypatch.setattr(lobby, "BESIDE", MOST - 2)
    services = replace(shared[0].services, http=replace(HTTP, max_open_requests=2))
    return with_requests(services, Scripted(lambda request: Script(finished(request))))


async def fill(
    app: Starlette, path: str = "/v1/completions"
) -> list[tuple[Exchange, asyncio.Task[Exchange]]]:
    """So many whose bodies have begun and do not end."""
    exchanges = [Exchange(path, b"{", more=True) for _ in range(MOST)]
    tasks = [asyncio.create_task(each.run(app)) for each in exchanges]
    while not all(each.read for each in exchanges):
        await asyncio.sleep(0)
    return list(zip(exchanges, tasks, strict=True))


async def empty(waiting: list[tuple[Exchange, asyncio.Task[Exchange]]]) -> None:
    for exchange, _ in waiting:
        exchange.left.set()
    await asyncio.gather(*(task for _, task in waiting))


def test_one_too_many_is_turned_away_unread_and_let_in_once_there_is_room(app: Starlette) -> None:
    async def scenario() -> None:
        waiting = await fill(app)
        turned_away = await Exchange("/v1/completions", WHOLE).run(app)
        assert (turned_away.status, turned_away.read) == (503, 0)
        assert b'"server_busy"' in turned_away.body
        await empty(waiting)
        assert (await Exchange("/v1/completions", WHOLE).run(app)).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json"])
def test_who_watches_a_full_server_is_answered(app: Starlette, path: str) -> None:
    async def scenario() -> None:
        waiting = await fill(app)
        watching = Exchange(path)
        watching.scope["method"] = "GET"
        assert (await watching.run(app)).status == 200
        await empty(waiting)

    asyncio.run(scenario())


@pytest.mark.parametrize("path", sorted(lobby.GENERATING))
def test_a_full_engine_turns_away_unread(shared: tuple[Server, TestClient], path: str) -> None:
    requests = Scripted(lambda request: Script(finished(request)))
    app = with_requests(shared[0].services, requests)
    requests.is_full = True
    turned_away = asyncio.run(Exchange(path, WHOLE).run(app))
    assert (turned_away.status, turned_away.read) == (503 if path.startswith("/v1/") else 429, 0)
    counted = asyncio.run(Exchange("/tokenize", b'{"prompt": "Hello"}').run(app))
    assert counted.status == 200  # asks nothing of the engine


def test_the_routes_that_generate_are_the_ones_that_need_no_more_than_that() -> None:
    only = {path for path, scopes in NEEDS.items() if scopes == {Scope.GENERATE}}
    assert only - lobby.GENERATING == {"/v1/tokenize", "/v1/detokenize", "/tokenize", "/detokenize"}
    assert only >= lobby.GENERATING


def test_every_route_that_reads_a_body_counts(app: Starlette) -> None:
    async def scenario() -> None:
        waiting = await fill(app, "/generate")
        assert (await Exchange("/v1/adapters", WHOLE).run(app)).status == 503
        await empty(waiting)

    asyncio.run(scenario())
