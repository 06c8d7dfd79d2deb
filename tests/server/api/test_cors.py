"""Which web pages may use a server: none, unless the operator names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lorikeet_adapters.errors import RefusedError
from lorikeet_server.api.app import create_app
from lorikeet_server.api.cors import check_origins
from lorikeet_server.config import HttpConfig
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.metrics import Metrics
from tests.server.keyed import keyed
from tests.server.world import Server, client_of

APP, OTHER = "https://app.example", "https://evil.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
pytestmark = pytest.mark.safety("security 15")


def invitation(answer: object) -> str | None:
    return answer.headers.get("access-control-allow-origin")  # type: ignore[attr-defined,no-any-return]


@contextmanager
def without_keys(server: Server, *origins: str) -> Iterator[TestClient]:
    services = server.services
    http = replace(services.http, cors_origins=origins)
    with client_of(create_app(replace(services, http=http, metrics=Metrics(EngineStats, "fp32")))) as made:
        yield made


def test_the_list_is_empty() -> None:
    assert HttpConfig().cors_origins == ()


def test_a_page_of_the_list_may_ask_and_is_asked_for_its_key(server: Server, tmp_path: Path) -> None:
    with keyed(server, tmp_path, running=False, cors_origins=(APP,)) as house:
        preflight = house.client.options("/v1/chat/completions", headers={"origin": APP, **PREFLIGHT})
        assert (preflight.status_code, invitation(preflight)) == (200, APP)
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in preflight.headers
        assert len(preflight.headers["x-request-id"]) == 32
        answer = house.by("asking").get("/v1/models", headers={"origin": APP})
        assert (answer.status_code, invitation(answer)) == (200, APP)
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        refused = house.client.get("/v1/models", headers={"origin": APP})
        assert (refused.status_code, invitation(refused)) == (401, APP), "the page can read why"


def test_no_other_page_is_invited(server: Server, tmp_path: Path) -> None:
    with keyed(server, tmp_path, running=False, cors_origins=(APP,)) as house:
        for origin in (OTHER, f"{APP}.evil.example", "null", APP.upper()):
            assert invitation(house.by("asking").get("/v1/models", headers={"origin": origin})) is None
            preflight = house.client.options("/v1/models", headers={"origin": origin, **PREFLIGHT})
            assert preflight.status_code == 400
            assert invitation(preflight) is None


def test_without_keys_the_list_is_an_exception_to_the_rule_of_origins(server: Server) -> None:
    with without_keys(server, APP) as client:
        assert client.get("/v1/models", headers={"origin": APP}).status_code == 200
        assert client.get("/v1/models", headers={"origin": OTHER}).status_code == 403
        assert client.get("/v1/models", headers={"origin": APP, "host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "origin", ["app.example", "https://app.example/", "https://app.example/page", "HTTPS://app.example", ""]
)
def test_what_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(RefusedError, match="--cors-origin"):
        check_origins([APP, origin], has_keys=True)


def test_every_page_needs_a_key() -> None:
    check_origins(["*", APP, "http://localhost:3000", "http://[::1]:8080"], has_keys=True)
    with pytest.raises(RefusedError, match="--api-keys"):
        check_origins(["*"], has_keys=False)
