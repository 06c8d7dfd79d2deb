"""GET /v1/models: the base and every adapter, findable by the id that requests use."""

from __future__ import annotations

from starlette.testclient import TestClient

from tests.server.world import BASE, CONTEXT, RANKS


def test_the_list_begins_with_the_base(client: TestClient) -> None:
    listing = client.get("/v1/models").json()
    assert listing["object"] == "list"
    base, *adapters = listing["data"]
    assert base["id"] == base["root"] == BASE
    assert base["parent"] is None
    assert {each["id"] for each in adapters} >= RANKS.keys()
    for each in adapters:
        assert each["object"] == "model"
        assert each["parent"] == BASE
        assert each["root"] == each["id"]
        assert each["max_model_len"] == CONTEXT
        assert isinstance(each["created"], int)


def test_each_is_found_by_its_id(client: TestClient) -> None:
    for card in client.get("/v1/models").json()["data"]:
        assert client.get(f"/v1/models/{card['id']}").json() == card


def test_unknown_ids_are_404(client: TestClient) -> None:
    for path in ("/v1/models/nobody", "/v1/models/formal:0.5", "/v1/models/..%2Fformal", "/v1/models/%00"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "model_not_found"
