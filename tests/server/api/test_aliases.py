"""/v1/aliases: an alias wherever an adapter's name may stand, splits by user, one namespace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.api.test_operators import GREEDY, TEXT, code, generation, register, text
from tests.server.world import BASE, Server, client_of, post

ROUTE = "/v1/aliases"


@pytest.fixture
def own(server: Server) -> Iterator[TestClient]:
    with client_of(server.app) as client:
        yield client


def put(client: TestClient, name: str, *targets: Any) -> Any:
    made = [{"name": each} if isinstance(each, str) else each for each in targets]
    return client.put(f"{ROUTE}/{name}", json={"targets": made})


def test_an_alias_is_put_read_and_deleted(own: TestClient) -> None:
    answer = put(own, "team/stable", "formal")
    assert answer.status_code == 201
    alias = answer.json()
    assert alias["object"] == "alias"
    assert alias["id"] == "team/stable"
    assert alias["targets"] == [{"name": "formal", "generation": None, "weight": 1.0}]
    assert own.get(f"{ROUTE}/team%2Fstable").json() == alias
    assert own.get(ROUTE).json() == {"object": "list", "data": [{**alias, "history": []}], "has_more": False}
    again = put(own, "team/stable", "formal")
    assert (again.status_code, again.json()) == (200, alias)
    changed = put(own, "team/stable", "friendly").json()
    assert [each["targets"][0]["name"] for each in changed["history"]] == ["friendly", "formal"]
    assert own.delete(f"{ROUTE}/team/stable").json() == {
        "object": "alias",
        "id": "team/stable",
        "deleted": True,
    }
    for answer in (own.get(f"{ROUTE}/team/stable"), own.delete(f"{ROUTE}/team/stable")):
        assert code(answer) == (404, "model_not_found")
    assert code(post(own, TEXT, {**GREEDY, "model": "team/stable"})) == (404, "model_not_found")


def test_an_alias_may_stand_wherever_a_name_may(own: TestClient) -> None:
    put(own, "stable", "formal")
    blend = text(own, "formal:0.7+friendly:0.3")
    assert text(own, "stable") == text(own, "formal")
    assert text(own, "stable:0.7+friendly:0.3") == blend
    mixed = {
        **GREEDY,
        "model": BASE,
        "adapters": [{"name": "stable", "weight": 0.7}, {"name": "friendly", "weight": 0.3}],
    }
    answer = post(own, TEXT, mixed)
    assert answer.json()["choices"] == blend
    native = {"inputs": "Hello", "parameters": {"adapter_id": "stable", "max_new_tokens": 4}}
    answer = post(own, "/generate", native)
    assert answer.headers["x-lorikeet-generation"] == generation(own, "formal")


def test_the_models_list_shows_what_is_behind_it(own: TestClient) -> None:
    put(own, "stable", "formal")
    put(own, "canary", "formal", {"name": "friendly", "weight": 0.1})
    cards = {each["id"]: each for each in own.get("/v1/models").json()["data"]}
    assert (cards["stable"]["root"], cards["stable"]["parent"]) == ("formal", BASE)
    assert cards["canary"]["root"] == "formal,friendly"
    assert own.get("/v1/models/canary").json() == cards["canary"]


def test_a_user_always_gets_the_same_share(own: TestClient) -> None:
    put(own, "canary", "formal", "friendly")

    def meant(**fields: Any) -> str:
        answer = post(own, TEXT, {**GREEDY, "max_tokens": 1, "model": "canary", **fields})
        return str(answer.headers["x-lorikeet-generation"])

    users = {user: {meant(user=user) for _ in range(3)} for user in map(str, range(12))}
    assert all(len(got) == 1 for got in users.values())
    both = {generation(own, "formal"), generation(own, "friendly")}
    assert set().union(*users.values()) == both
    assert {meant() for _ in range(30)} == both
    answer = post(own, TEXT, {**GREEDY, "model": "canary", "user": 5})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "user")


def test_a_frozen_target_outlives_a_replacement(own: TestClient) -> None:
    old, formal = generation(own, "formal"), text(own, "formal")
    put(own, "frozen", {"name": "formal", "generation": old})
    register(own, "formal", "friendly", {"replace": True})
    assert text(own, "frozen") == formal != text(own, "formal")
    answer = own.delete("/v1/adapters/formal")
    assert code(answer) == (409, "adapter_in_use")
    assert "`frozen`" in answer.json()["error"]["message"]


def test_one_namespace(own: TestClient) -> None:
    put(own, "stable", "formal")
    assert code(put(own, "formal", "friendly")) == (409, "name_taken")
    assert code(put(own, BASE, "friendly")) == (409, "name_taken")
    assert code(register(own, "stable", "formal")) == (409, "name_taken")
    assert code(register(own, BASE, "formal")) == (409, "name_taken")
    assert code(own.get("/v1/adapters/stable")) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "expected", "param"),
    [
        ({}, "invalid_request", "targets"),
        ({"targets": []}, "invalid_request", "targets"),
        ({"targets": [{"weight": 1}]}, "invalid_request", "targets.0.name"),
        ({"targets": [{"name": "formal", "weight": -1}]}, "invalid_request", "targets.0.weight"),
        ({"targets": [{"name": "formal", "weight": 1e9}]}, "invalid_request", "targets.0.weight"),
        ({"targets": [{"name": "formal", "generation": "x"}]}, "invalid_request", "targets.0.generation"),
        ({"targets": [{"name": "formal"}], "sticky": True}, "invalid_request", "sticky"),
        ({"targets": [{"name": "formal", "weight": 0}]}, "invalid_alias", "targets"),
        ({"targets": [{"name": "formal"}] * 2}, "invalid_alias", "targets"),
        ({"targets": [{"name": BASE}]}, "invalid_alias", "targets"),
    ],
    ids=str,
)
def test_a_wrong_alias_is_400_by_name(
    client: TestClient, body: Any, expected: str, param: str | None
) -> None:
    answer = client.put(f"{ROUTE}/wrong", json=body)
    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (expected, param)
    assert client.get(f"{ROUTE}/wrong").status_code == 404
