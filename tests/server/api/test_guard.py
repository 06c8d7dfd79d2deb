"""Around every request: who may ask at all, an id for it, and a count with few labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from lorikeet_server.api.app import ROUTES, create_app
from lorikeet_server.api.traffic import REQUEST_ID
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.metrics import Metrics
from tests.server.world import LOCAL, Script, Scripted, Server, client_of, with_requests

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]
PATHS = sorted({route.path.replace("{name:path}", "a%2Fb") for route in ROUTES} | {"/", "/nowhere", "//v1"})
FOREIGN_HOSTS = [
    "evil.example",
    "localhost.evil.example",
    "evil.example:8000",
    "127.0.0.1.nip.io",
    "0.0.0.0",
    "[::2]",
    "[::1",
    "localhost@evil.example",
    "evil.example/localhost",
    "x/skip?",
    "",
]
FOREIGN_ORIGINS = [
    "https://evil.example",
    "http://localhost.evil.example",
    "null",
    "",
    "localhost",
    "http://[::1",
    "http://localhost@evil.example",
    "chrome-extension://abc",
]


@pytest.fixture(scope="module")
def quiet(shared: tuple[Server, TestClient]) -> Iterator[TestClient]:
    """An application with a count of its own, whose engine does nothing."""
    with client_of(with_requests(shared[0].services, Scripted(lambda request: Script()))) as made:
        yield made


@pytest.fixture(scope="module")
def insecure(shared: tuple[Server, TestClient]) -> Iterator[TestClient]:
    services = shared[0].services
    http = replace(services.http, insecure=True)
    with client_of(create_app(replace(services, http=http, metrics=Metrics(EngineStats, "fp32")))) as made:
        yield made


@pytest.mark.safety("security 15")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_host_or_origin_is_403_everywhere(quiet: TestClient, method: str, path: str) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        answer = quiet.request(method, LOCAL + path, headers=headers)
        assert answer.status_code == 403
        if method != "HEAD":
            assert "not allowed" in answer.text or "localhost" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", "/v1/aliases/a", "DELETE, GET, HEAD, PUT"),
        ("POST", "/v1/adapters/a", "DELETE, GET, HEAD, PATCH"),
        ("PUT", "/v1/adapters", "GET, HEAD, POST"),
        # Not a name with a slash in it, on the route below.
        ("PATCH", "/v1/adapters/history/a", "GET, HEAD"),
        ("DELETE", "/v1/adapters/activate/a", "POST"),
        # Nothing is changed by a form that no route takes, so it is told what is wrong first.
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_405_with_every_right_one(
    quiet: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = quiet.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.safety("security 15")
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_hosts_that_only_resemble_this_machine_are_403(quiet: TestClient, host: str) -> None:
    answer = quiet.get("/health", headers={"host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_forbidden"


@pytest.mark.safety("security 15")
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_origins_that_are_not_this_machine_are_403(quiet: TestClient, origin: str) -> None:
    assert quiet.get("/health", headers={"origin": origin}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_this_machine_may_ask(quiet: TestClient, host: str) -> None:
    assert quiet.get("/health", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_insecure_answers_any_host_and_origin(insecure: TestClient) -> None:
    headers = {"host": "evil.example", "origin": "https://evil.example"}
    assert insecure.get("/v1/models", headers=headers).status_code == 200
    assert insecure.post("/v1/completions", content=b"{", headers=headers).status_code == 400


@pytest.mark.safety("security 15")
def test_no_answer_invites_other_origins(insecure: TestClient, quiet: TestClient) -> None:
    for client in (insecure, quiet):
        answer = client.options("/v1/models", headers={"origin": "http://localhost"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/adapters/nobody", "/v1/completions"])
def test_a_request_id_is_echoed_or_made(quiet: TestClient, path: str) -> None:
    assert quiet.get(path, headers={"x-request-id": "trace-1.A_b"}).headers["x-request-id"] == "trace-1.A_b"
    made = {quiet.get(path).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)


@settings(max_examples=40, deadline=None)
@given(given_id=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80))
def test_only_plain_ids_are_echoed(quiet: TestClient, given_id: str) -> None:
    answered = quiet.get("/health", headers={"x-request-id": given_id}).headers["x-request-id"]
    assert REQUEST_ID.fullmatch(answered)
    assert (answered == given_id) is bool(REQUEST_ID.fullmatch(given_id))


def counts(client: TestClient) -> dict[tuple[str, str], float]:
    families = {each.name: each for each in text_string_to_metric_families(client.get("/metrics").text)}
    samples = families["lorikeet_http_requests"].samples
    return {(each.labels["route"], each.labels["code"]): each.value for each in samples}


@pytest.mark.safety("metrics 3")
def test_labels_are_routes_never_paths(shared: tuple[Server, TestClient]) -> None:
    client = client_of(with_requests(shared[0].services, Scripted(lambda request: Script())))
    for number in range(30):
        client.get(f"/nowhere/{number}")
        client.get(f"/v1/models/nobody-{number}")
        client.request("DELETE", f"/v1/adapters/nobody-{number}")
        client.request(f"M{number}", "/generate")
    for path in ("/health", "/v1/models/nobody", "/nowhere"):
        client.get(path, headers={"host": "evil.example"})
    client.post("/generate", content=b"inputs=Hello")
    found = counts(client)
    assert found[("other", "404")] == 30
    assert found[("/v1/models/{name:path}", "404")] == 30
    assert found[("/v1/adapters/{name:path}", "404")] == 30
    assert found[("/generate", "405")] == 30
    for route in ("/health", "/v1/models/{name:path}", "other"):  # refused before the routing
        assert found[(route, "403")] == 1
    assert found[("/generate", "422")] == 1
    assert len(found) == 8
