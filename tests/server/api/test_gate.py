"""With keys: deny by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route

from lorikeet_server.api.app import ROUTES
from lorikeet_server.api.gate import NEEDS, OPEN, is_console
from lorikeet_server.keyring import Scope
from tests.server.api.test_guard import FOREIGN_HOSTS, METHODS
from tests.server.keyed import KEYS, Keyed, keyed
from tests.server.world import BASE, Server, World, make_server

ROUTE_PATHS = sorted({route.path.replace("{name:path}", "formal") for route in ROUTES})
CLOSED = [path for path in ROUTE_PATHS if path not in OPEN]
NO_ROUTES = [
    "/nowhere",
    "//v1/models",
    "/v1/models/",
    "/V1/models",
    "/v1%2Fmodels",
    "/health/",
    "/health/x",
]
NO_ROUTES += [
    "/metrics/",
    "/docs",
    "/invocations",
    "/v1",
    "/health/live/../../v1/models",
    "/health;/v1/models",
]


ASKED = [(method, path) for method in METHODS for path in CLOSED + NO_ROUTES if not is_console(method, path)]


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with (
        make_server(world, tmp_path_factory.mktemp("gate")) as server,
        keyed(server, tmp_path_factory.mktemp("keys")) as made,
    ):
        yield made


def challenge(answer: object) -> str:
    return str(answer.headers["www-authenticate"])  # type: ignore[attr-defined]


@pytest.mark.safety("security 1")
@pytest.mark.parametrize(("method", "path"), ASKED)
def test_whatever_is_not_open_is_401_without_a_key(house: Keyed, method: str, path: str) -> None:
    """On every route and method, and on what is no route."""
    answer = house.client.request(method, f"http://127.0.0.1{path}", follow_redirects=False)
    assert answer.status_code == 401
    assert challenge(answer).startswith("Bearer")
    if method == "HEAD":
        return
    assert "send the header `Authorization: Bearer KEY`" in answer.text


@pytest.mark.safety("security 1")
def test_the_console_holds_nothing_and_needs_no_key_and_opens_nothing_else(house: Keyed) -> None:
    for path in ("/", "/console/main.js"):
        open_to_all = house.client.get(path)
        assert open_to_all.status_code == 200
        assert open_to_all.content == house.by("operator").get(path).content
        assert house.client.head(path).status_code == 200
    assert house.client.post("/", json={"inputs": "hello"}).status_code == 401
    for method in METHODS:
        if method not in ("GET", "HEAD"):
            assert house.client.request(method, "/console/main.js").status_code == 405
            assert house.client.request(method, "/").status_code == (401 if method == "POST" else 405)
    assert house.client.get("/console/nothing.js").status_code == 404


@pytest.mark.safety("security 1")
def test_every_route_has_its_place() -> None:
    """A new route needs the admin scope until somebody says what it needs."""
    for route in ROUTES:
        assert isinstance(route, Route)
        assert (route.path in OPEN) != (route.path in NEEDS), f"{route.path} is placed in api/gate.py"
    assert {"/health", "/health/live", "/health/ready", "/startup", "/ping", "/openapi.json"} >= OPEN


@pytest.mark.parametrize("path", sorted(OPEN & {route.path for route in ROUTES}))
def test_the_open_routes_need_no_key(house: Keyed, path: str) -> None:
    assert house.client.get(path).status_code == 200
    assert house.client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 200


@pytest.mark.safety("security 1")
@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_opens_what_its_scopes_name(house: Keyed, key: str, path: str) -> None:
    template = path.replace("formal", "{name:path}")
    answer = house.by(key).request("OPTIONS", path)  # no route has this method, so nothing happens
    if is_console("OPTIONS", template) or NEEDS[template] & {Scope(each) for each in KEYS[key][0]}:
        assert answer.status_code == 405
    else:
        assert answer.status_code == 403
        assert 'error="insufficient_scope"' in challenge(answer)


@pytest.mark.safety("security 2")
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_no_host_opens_a_route(house: Keyed, host: str) -> None:
    """`Host: x/health?` once moved the path that was judged away from the one that answered."""
    for each in (host, "x/health?", "127.0.0.1/health?", "127.0.0.1/health#"):
        answer = house.client.get("/v1/models", headers={"host": each})
        assert answer.status_code == 401
        assert house.by("asking").get("/v1/adapters", headers={"host": each}).status_code == 403
        assert house.by("asking").get("/v1/models", headers={"host": each}).status_code == 200


@pytest.mark.safety("security 1", "security 2")
@pytest.mark.parametrize(
    "header", ["x-original-url", "x-rewrite-url", "x-forwarded-prefix", "x-forwarded-path"]
)
def test_no_header_opens_a_route(house: Keyed, header: str) -> None:
    assert house.client.get("/v1/models", headers={header: "/health"}).status_code == 401


WRONG = [
    [("authorization", "Bearer")],
    [("authorization", "Bearer ")],
    [("authorization", "Bearer wrong")],
    [("authorization", "KEY")],
    [("authorization", "Basic KEY")],
    [("authorization", "Bearer KEY, Bearer KEY")],
    [("authorization", "Bearer KEY"), ("authorization", "Bearer KEY")],
    [("authorization", "Bearer wrong"), ("authorization", "Bearer KEY")],
    [("authorization", b"Bearer \xff\xfe")],
    [("x-api-key", "KEY")],
    [("cookie", "authorization=Bearer KEY")],
]


@pytest.mark.parametrize("headers", WRONG, ids=str)
def test_what_is_no_bearer_key_is_401(house: Keyed, headers: list[tuple[str, str | bytes]]) -> None:
    secret = house.secrets["operator"].encode()
    sent = [
        (name.encode(), (value.encode() if isinstance(value, str) else value).replace(b"KEY", secret))
        for name, value in headers
    ]
    answer = house.client.get("/v1/models", headers=sent)
    assert answer.status_code == 401
    assert secret.decode() not in answer.text
    assert house.client.get(f"/v1/models?api_key={secret.decode()}").status_code == 401


def test_the_scheme_is_read_in_any_case(house: Keyed) -> None:
    headers = {"authorization": f"bEARER  {house.secrets['asking']}"}
    assert house.client.get("/v1/models", headers=headers).status_code == 200


def test_the_tgi_api_token_stays_without_effect(house: Keyed) -> None:
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 2, "api_token": house.secrets["operator"]}}
    assert house.client.post("/generate", json=body).status_code == 401
    assert house.by("asking").post("/generate", json=body).status_code == 200


def test_with_keys_other_hosts_and_origins_may_ask(house: Keyed) -> None:
    headers = {"host": "lorikeet.example", "origin": "https://app.example"}
    assert house.by("asking").get("/v1/models", headers=headers).status_code == 200
    answer = house.by("asking").options("/v1/models", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_metrics_need_their_scope_unless_they_are_opened(house: Keyed, tmp_path: Path) -> None:
    assert house.by("asking").get("/metrics").status_code == 403
    assert house.by("scraping").get("/metrics").status_code == 200
    assert house.by("scraping").get("/v1/models").status_code == 403


def test_metrics_can_be_opened(server: Server, tmp_path: Path) -> None:
    with keyed(server, tmp_path, open_metrics=True) as opened:
        assert opened.client.get("/metrics").status_code == 200
        assert opened.client.get("/metrics/").status_code == 401
        assert opened.client.get("/v1/models").status_code == 401


def test_refusals_are_counted_by_reason(server: Server, tmp_path: Path) -> None:
    with keyed(server, tmp_path) as house:
        house.client.get("/v1/models")
        house.client.get("/nowhere")
        house.by("asking").get("/v1/adapters")
        house.by("operator").get("/v1/models/nobody")
        text = house.by("scraping").get("/metrics").text
    assert 'lorikeet_rejections_total{reason="unauthorised"} 3.0' in text


def test_a_removed_key_is_refused_and_running_servers_notice(server: Server, tmp_path: Path) -> None:
    from lorikeet_server.keyring import remove_key

    with keyed(server, tmp_path) as house:
        ring = house.client.app.state.services.keys  # type: ignore[attr-defined]
        assert house.by("beta").get("/v1/models").json()["data"][0]["id"] == BASE
        remove_key(tmp_path / "keys.toml", "beta")
        ring._looked -= 1.0  # a second passes
        assert house.by("beta").get("/v1/models").status_code == 401
        assert house.by("acme").get("/v1/models").status_code == 200
