"""Health, /info and /metrics as probes and dashboards read them."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from starlette.testclient import TestClient

from lorikeet_server.api import scrape
from tests.server.world import BASE, CONTEXT, HTTP, Script, Scripted, Server, client_of, with_requests

LIVE = ["/health/live", "/startup"]
READY = ["/health", "/health/ready", "/ping"]
HEALTH = [*LIVE, *READY]


@pytest.mark.safety("reliability 2")
@pytest.mark.parametrize("path", HEALTH)
def test_green_while_the_engine_lives_and_red_after(shared: tuple[Server, TestClient], path: str) -> None:
    for alive, status in ((True, 200), (False, 503)):
        requests = Scripted(lambda request: Script(), alive=alive)
        assert client_of(with_requests(shared[0].services, requests)).get(path).status_code == status


@pytest.mark.safety("reliability 2")
def test_red_as_long_as_a_step_hangs(shared: tuple[Server, TestClient]) -> None:
    requests = Scripted(lambda request: Script())
    client = client_of(with_requests(shared[0].services, requests))
    for hangs, status in ((True, 503), (False, 200)):
        requests.hangs = hangs
        assert [client.get(path).status_code for path in HEALTH] == [status] * 5


@pytest.mark.safety("reliability 1", "reliability 2")
def test_a_server_that_stops_is_live_and_not_ready(shared: tuple[Server, TestClient]) -> None:
    requests = Scripted(lambda request: Script())
    requests.draining = True
    client = client_of(with_requests(shared[0].services, requests))
    answers = {path: client.get(path) for path in HEALTH}
    expected = dict.fromkeys(LIVE, 200) | dict.fromkeys(READY, 503)
    assert {path: answer.status_code for path, answer in answers.items()} == expected
    assert answers["/health/ready"].json() == {"status": "draining"}


def test_info_has_the_keys_of_lorax_and_tgi(client: TestClient) -> None:
    info = client.get("/info").json()
    assert info["model_id"] == BASE
    assert info["max_total_tokens"] == CONTEXT
    assert info["max_input_length"] == info["max_input_tokens"] == CONTEXT - 1
    assert info["max_concurrent_requests"] == HTTP.max_open_requests
    assert info["slots"] == 8
    assert info["rank_rows"] > 0
    assert info["base_bytes"] == sum(info["bytes_by_dtype"].values())
    assert (info["quantization"], info["model_device_type"], info["kernel"]) == ("fp32", "cpu", "torch")


def test_metrics_come_in_the_form_that_is_accepted(client: TestClient) -> None:
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert not plain.text.endswith("# EOF\n")
    asked = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
    modern = client.get("/metrics", headers={"accept": asked})
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")
    names = {family.name for family in parse_plain(plain.text)}
    assert names == {family.name for family in parse_openmetrics(modern.text)}  # type: ignore[no-untyped-call]
    assert all(name.startswith("lorikeet_") for name in names)


@pytest.mark.parametrize("path", [*HEALTH, "/info", "/metrics", "/v1/models", "/v1/adapters"])
def test_what_reads_takes_no_other_method(client: TestClient, path: str) -> None:
    answer = client.put(path)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert "GET" in answer.headers["allow"]
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings", "/v1/aliases/a"])
def test_what_is_not_built_is_404_in_openais_shape(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.safety("metrics 4")
@pytest.mark.parametrize("path", ["/metrics", "/metrics/vllm"])
def test_a_scrape_is_rendered_beside_the_loop(
    shared: tuple[Server, TestClient], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def render(registry: CollectorRegistry) -> bytes:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            seen.append(False)
        else:
            seen.append(True)
        return b""

    monkeypatch.setattr(scrape.exposition, "generate_latest", render)
    assert shared[1].get(path).status_code == 200
    assert seen == [False]
