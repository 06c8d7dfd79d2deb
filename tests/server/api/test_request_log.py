"""/v1/requests: what was kept is found, judged and removed, by its tenant's admin and by the operator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lorikeet_server.request_log.log import Bounds, RequestLog
from lorikeet_server.request_log.record import Record
from tests.server.kept import put, record
from tests.server.keyed import Keyed, keyed
from tests.server.world import World, make_server

ONE = "/v1/requests/req-1"
ROUTES = [("GET", "/v1/requests"), ("GET", ONE), ("PATCH", ONE), ("DELETE", ONE), ("POST", "/v1/datasets")]
CHAT = ({"role": "user", "content": "Is 50% off?"},)


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    data, keys = tmp_path_factory.mktemp("requests"), tmp_path_factory.mktemp("keys")
    with make_server(world, data, log=Bounds()) as server, keyed(server, keys) as made:
        yield made


@pytest.fixture
def log(house: Keyed) -> RequestLog:
    """Without what other tests have put there."""
    assert house.server.log is not None
    house.server.log.records.retain(time.time() + 1, 1 << 30)
    return house.server.log


def kept(log: RequestLog, count: int = 1, **more: Any) -> list[Record]:
    made = [record(created=time.time(), **more) for _ in range(count)]
    put(log, *made)
    return made


def found(house: Keyed, query: str = "", who: str = "operator") -> list[str]:
    answer = house.by(who).get(f"/v1/requests{query}")
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["data"]]


def test_a_record_on_the_wire(house: Keyed, log: RequestLog) -> None:
    (made,) = kept(log, messages=CHAT, tenant="acme", key="ci")
    expected = {
        "id": made.id,
        "object": "request",
        "created": int(made.created),
        "tenant": "acme",
        "key": "ci",
        "route": "/v1/completions",
        "model": "formal",
        "mix": [{"generation": "ab" * 32, "weight": 0.5}],
        "messages": list(CHAT),
        "prompt": None,
        "answer": "On its way.",
        "finish_reason": "stop",
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "total_s": 0.25,
        "rating": None,
        "correction": None,
    }
    assert house.by("acme").get(f"/v1/requests/{made.id}").json() == expected
    page = house.by("acme").get("/v1/requests").json()
    assert page == {
        "object": "list",
        "data": [expected],
        "first_id": made.id,
        "last_id": made.id,
        "has_more": False,
    }
    (own,) = kept(log)
    told = house.by("operator").get(f"/v1/requests/{own.id}").json()
    assert (told["tenant"], told["key"], told["messages"], told["prompt"]) == (None, None, None, own.prompt)


def test_pages_are_openais(house: Keyed, log: RequestLog) -> None:
    ids = [each.id for each in kept(log, 25)][::-1]
    assert found(house) == ids[:20]
    assert found(house, "?limit=100") == ids
    first = house.by("operator").get("/v1/requests?limit=20").json()
    assert (first["has_more"], first["last_id"]) == (True, ids[19])
    second = house.by("operator").get(f"/v1/requests?limit=5&after={ids[19]}").json()
    assert ([each["id"] for each in second["data"]], second["has_more"]) == (ids[20:], False)


def test_filters(house: Keyed, log: RequestLog) -> None:
    (chat,), (text,) = kept(log, messages=CHAT), kept(log, model="b", answer="Größer_")
    assert found(house, "?q=50%25%20OFF") == [chat.id]
    assert found(house, "?q=%25") == [chat.id]
    assert found(house, "?q=GR%C3%96%C3%9FER_") == [text.id]
    assert found(house, "?q=r_&model=b") == [text.id]
    assert found(house, "?q=r_&model=formal") == found(house, "?q=x_") == []
    house.by("operator").patch(f"/v1/requests/{chat.id}", json={"rating": "down"})
    assert found(house, "?rating=down") == [chat.id]
    assert found(house, "?rating=none") == [text.id]
    assert found(house, "?rating=up") == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "rating=best", "q=" + "a" * 201, "q=%00", "what=1"]
)
def test_a_query_that_is_none_is_refused(house: Keyed, query: str) -> None:
    answer = house.by("operator").get(f"/v1/requests?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_rating_and_correction(house: Keyed, log: RequestLog) -> None:
    (made,) = kept(log)

    def judge(**body: Any) -> tuple[Any, Any]:
        answer = house.by("operator").patch(f"/v1/requests/{made.id}", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == house.by("operator").get(f"/v1/requests/{made.id}").json()
        return answer.json()["rating"], answer.json()["correction"]

    assert judge(rating="up") == ("up", None)
    assert judge(correction="Better.") == ("up", "Better.")
    assert judge(rating=None, correction=None) == judge() == ("up", "Better.")
    assert judge(rating="none") == (None, "Better.")
    assert judge(rating="down", correction="") == ("down", None)


@pytest.mark.parametrize(
    "body", [{"rating": "best"}, {"correction": 5}, {"answer": "x"}, {"correction": "x" * (1 << 18 | 1)}]
)
def test_a_judgement_that_is_none_is_refused(house: Keyed, log: RequestLog, body: dict[str, Any]) -> None:
    (made,) = kept(log)
    limited = house.server.services.http.max_body_bytes
    answer = house.by("operator").patch(f"/v1/requests/{made.id}", json=body)
    assert answer.status_code == (413 if len(str(body)) > limited else 400)
    assert found(house, "?rating=none") == [made.id]


@pytest.mark.safety("security 17")
def test_a_removed_record_is_gone(house: Keyed, log: RequestLog) -> None:
    made, stays = kept(log, 2)
    answer = house.by("operator").delete(f"/v1/requests/{made.id}")
    assert answer.json() == {"id": made.id, "object": "request", "deleted": True}
    assert found(house) == [stays.id]
    for method in ("get", "delete"):
        assert getattr(house.by("operator"), method)(f"/v1/requests/{made.id}").status_code == 404


@pytest.mark.safety("security 17")
def test_another_tenants_record_does_not_exist(house: Keyed, log: RequestLog) -> None:
    (acme,), (beta,), (own,) = kept(log, tenant="acme"), kept(log, tenant="beta"), kept(log)
    assert found(house) == [own.id, beta.id, acme.id]
    assert found(house, who="acme") == [acme.id]
    assert found(house, f"?after={own.id}", who="acme") == []
    for each in (beta.id, own.id, "req-none"):
        path = f"/v1/requests/{each}"
        client = house.by("acme")
        for answer in (client.get(path), client.patch(path, json={"rating": "up"}), client.delete(path)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")
            assert each in answer.json()["error"]["message"]
    assert found(house, "?rating=none") == [own.id, beta.id, acme.id]


@pytest.mark.safety("security 1")
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_key_that_only_generates_reads_nothing(house: Keyed, method: str, path: str) -> None:
    assert house.by("asking").request(method, path).status_code == 403
    assert house.client.request(method, path).status_code == 401
