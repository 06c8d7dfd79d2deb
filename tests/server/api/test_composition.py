"""Combined adapters over HTTP: served like any other, made of what their record says, refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from tests.server.world import BASE, World
from tests.tiny import save_adapter

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


def test_a_refused_combination_names_the_field(client: TestClient, compose: Any) -> None:
    ties = {"method": "ties", "adapters": PARTS}  # of ranks 4 and 3
    for body, code, param in (
        (ties, "invalid_composition", "adapters"),
        ({"adapters": [{"name": "formall"}]}, "model_not_found", "adapters"),
        ({"adapters": PARTS, "density": 2}, "invalid_composition", "density"),
        ({"adapters": PARTS, "rank": 2}, "invalid_composition", "rank"),
    ):
        error = compose("never", **body).json()["error"]
        assert (error["code"], error["param"]) == (code, param), error
    error = compose("formal", adapters=PARTS).json()["error"]
    assert (error["code"], error["param"]) == ("adapter_exists", "name")


def test_a_name_that_is_not_to_be_had_is_refused_before_the_work(client: TestClient, compose: Any) -> None:
    """The ranks would be refused by the work; the name is what the answer is about."""
    for name, code in (("formal", "adapter_exists"), (BASE, "name_taken"), ("a b", "invalid_name")):
        answer = compose(name, method="ties", adapters=PARTS)
        assert answer.json()["error"]["code"] == code
    assert compose("twice", adapters=PARTS).status_code == 201
    assert compose("twice", adapters=PARTS).status_code == 200
    assert compose("twice", adapters=PARTS[:1]).json()["error"]["code"] == "adapter_exists"


def test_a_merge_that_cannot_be_made_has_one_code_wherever_it_is_asked_for(client: TestClient) -> None:
    merged = {"ids": ["formal", "friendly"], "weights": [1, 1], "merge_strategy": "ties", "density": 0.5}
    answer = client.post("/v1/completions", json={"model": BASE, "merged_adapters": merged, **TEXT})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        422,
        "invalid_composition",
        "merged_adapters",
    )
    assert "equal ranks" in error["message"]


def test_dora_in_a_blend_is_refused_by_its_name(client: TestClient, world: World, tmp_path: Path) -> None:
    folder = save_adapter(world.base, world.root / "rigid", rank=2, seed=9, use_dora=True)
    try:
        made = client.post(
            "/v1/adapters", json={"name": "rigid", "source": {"type": "local", "path": "rigid"}}
        )
        assert made.status_code == 201, made.text
        client.put("/v1/aliases/stiff", json={"targets": [{"name": "rigid"}]})
        for model, name in (("rigid:0.5", "rigid"), ("formal:0.5+stiff:0.5", "stiff")):
            answer = client.post("/v1/completions", json={"model": model, **TEXT})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (422, "dora_not_blendable", "model")
            assert f"`{name}` was trained with DoRA" in error["message"]
        assert said(client, "rigid") == said(client, "rigid:1") == said(client, "stiff+formal:0")
    finally:
        client.delete("/v1/aliases/stiff")
        client.delete("/v1/adapters/rigid")
        shutil.rmtree(folder)


def test_a_token_beyond_the_vocabulary_has_its_own_code(client: TestClient) -> None:
    for path, body, param in (
        ("/v1/completions", {"model": BASE, "prompt": [1, 99999]}, "prompt"),
        ("/v1/detokenize", {"tokens": [1, 99999]}, "tokens"),
    ):
        answer = client.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_token", param)
        assert "99999" in error["message"]
