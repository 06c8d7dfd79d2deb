"""Combined adapters over HTTP: served like any other, made of what their record says, refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from tests.server.world import BASE

TEXT: dict[str, Any] = {
    "prompt": "Where is my parcel?",
    "max_tokens": 12,
    "ignore_eos": True,
    "temperature": 0,
}
PARTS = [{"name": "formal", "weight": 0.7}, {"name": "friendly", "weight": -0.4}]


@pytest.fixture
def compose(client: TestClient) -> Iterator[Any]:
    made: list[str] = []

    def call(name: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        answer = client.post("/v1/adapters/compose", json={"name": name, **body}, headers=headers or {})
        if answer.status_code == 201:
            made.append(name)
        return answer

    yield call
    for name in set(made):
        client.delete(f"/v1/adapters/{name}")


def said(client: TestClient, model: str) -> str:
    answer = client.post("/v1/completions", json={"model": model, **TEXT})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_cat_says_what_the_blend_says(client: TestClient, compose: Any) -> None:
    answer = compose("mixed", adapters=PARTS, metadata={"why": "test"})
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record["rank"] == 4 + 3
    assert record["source"] == {"type": "compose"}
    assert record["metadata"] == {"why": "test"}
    composed = record["provenance"]["composed"]
    assert composed["method"] == "cat"
    generations = {
        name: client.get(f"/v1/adapters/{name}").json()["generation"] for name in ("formal", "friendly")
    }
    assert composed["adapters"] == [{**each, "generation": generations[each["name"]]} for each in PARTS]
    assert said(client, "mixed") == said(client, "formal:0.7+friendly:-0.4") != said(client, BASE)


def test_the_same_combination_is_the_same_adapter(compose: Any) -> None:
    first = compose("again", adapters=PARTS, method="svd", rank=3)
    second = compose("again", adapters=PARTS, method="svd", rank=3)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["generation"] == second.json()["generation"]
    other = compose("again", adapters=PARTS)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "adapter_exists")
    assert compose("again", adapters=PARTS, replace=True).status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"adapters": PARTS, "method": "ties"}, 422, "invalid_composition", "equal ranks"),
        ({"adapters": [*PARTS, PARTS[0]]}, 422, "invalid_composition", "named twice"),
        ({"adapters": [{"name": BASE}]}, 422, "invalid_composition", "base model"),
        ({"adapters": [{"name": "formal", "weight": 0}]}, 422, "invalid_composition", "weight of `formal`"),
        ({"adapters": PARTS, "density": 0}, 422, "invalid_composition", "density"),
        ({"adapters": PARTS, "rank": 3}, 422, "invalid_composition", "svd"),
        ({"adapters": [{"name": "nobody"}]}, 404, "model_not_found", "nobody"),
        ({"adapters": []}, 400, "invalid_request", "adapters"),
        ({"adapters": PARTS, "method": "average"}, 400, "invalid_request", "method"),
        ({"adapters": PARTS, "surprise": 1}, 400, "invalid_request", "surprise"),
    ],
)
def test_what_cannot_be_combined(
    client: TestClient, compose: Any, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    answer = compose("never", **body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert words in answer.json()["error"]["message"]
    assert client.get("/v1/adapters/never").status_code == 404


def test_nothing_stays_leased(client: TestClient, compose: Any) -> None:
    def leases() -> list[int]:
        return [client.get(f"/v1/adapters/{each}").json()["leases"] for each in ("formal", "friendly")]

    before = leases()
    compose("counted", adapters=PARTS)
    compose("never", adapters=[*PARTS, {"name": "nobody"}])
    assert leases() == before
