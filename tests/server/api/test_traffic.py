"""Errors by reason and clients that leave, counted once each, wherever the answer comes from."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from lorikeet_server.api.app import create_app
from lorikeet_server.api.traffic import Traffic
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.errors import TABLE
from lorikeet_server.metrics import Metrics
from lorikeet_server.metrics.requests import REASONS, REFUSED, reason_of
from tests.server.world import (
    BASE,
    Exchange,
    Script,
    Scripted,
    Server,
    client_of,
    finished,
    post,
    token,
    with_requests,
)

BODY = {"model": BASE, "prompt": "Hello", "max_tokens": 2}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(EngineStats, "fp32")


def rejected(metrics: Metrics) -> dict[str, float]:
    (family,) = (each for each in metrics.registry.collect() if each.name == "lorikeet_rejections")
    return {each.labels["reason"]: each.value for each in family.samples if each.value}


def test_each_error_counts_under_its_reason(shared: tuple[Server, TestClient], metrics: Metrics) -> None:
    requests = Scripted(lambda request: Script(finished(request)))
    client = client_of(create_app(replace(shared[0].services, requests=requests, metrics=metrics)))
    assert post(client, "/v1/completions", BODY).status_code == 200
    assert post(client, "/v1/completions", {**BODY, "model": "nobody"}).status_code == 404
    assert client.get("/nothing").status_code == 404
    assert client.put("/health").status_code == 405
    assert post(client, "/v1/completions", {**BODY, "max_tokens": -1}).status_code == 400
    assert post(client, "/generate", {"inputs": ""}).status_code == 422
    assert client.get("/health", headers={"host": "elsewhere.example"}).status_code == 403
    assert client.post("/v1/completions", content=b" " * 300_000).status_code == 400
    assert rejected(metrics) == {"unknown": 3, REFUSED: 3, "unauthorised": 1}
    assert metrics.registry.get_sample_value("lorikeet_client_disconnects_total") == 0


def test_every_reason_is_there_before_the_first_error_and_every_status_has_one(metrics: Metrics) -> None:
    (family,) = (each for each in metrics.registry.collect() if each.name == "lorikeet_rejections")
    there = {each.labels["reason"] for each in family.samples}
    assert there == {*REASONS.values(), REFUSED, "failed"}
    assert {reason_of(row.status) for row in TABLE.values()} <= there
    assert [reason_of(status) for status in (400, 422, 424, 429, 500, 503, 504)] == [
        *(REFUSED, REFUSED, "failed", "overloaded", "failed", "overloaded", "late"),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_early_counts_once(shared: tuple[Server, TestClient], stream: bool) -> None:
    app = with_requests(shared[0].services, Scripted(lambda request: Script(token(request))))
    exchange = Exchange("/v1/completions", json.dumps({**BODY, "stream": stream}).encode())

    async def leave() -> None:
        running = asyncio.ensure_future(exchange.run(app))
        if stream:
            await exchange.said.wait()
        exchange.left.set()
        await running

    asyncio.run(leave())
    read = app.state.services.metrics.registry.get_sample_value
    assert read("lorikeet_client_disconnects_total") == 1
    assert rejected(app.state.services.metrics) == {}


@pytest.mark.parametrize(("whole", "early"), [(True, 0), (False, 1)])
def test_who_leaves_with_a_whole_answer_has_not_left_early(metrics: Metrics, whole: bool, early: int) -> None:
    """The server says `disconnect` in both cases to an application that asks again."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": not whole})
        assert (await receive())["type"] == "http.disconnect"

    exchange = Exchange("/anything")
    exchange.left.set()
    asyncio.run(exchange.run(Traffic(app, metrics=metrics)))  # type: ignore[arg-type]
    assert metrics.registry.get_sample_value("lorikeet_client_disconnects_total") == early
