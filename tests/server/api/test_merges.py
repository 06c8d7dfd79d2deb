"""LoRAX's ties and dare in a request: what they say is what the composed adapter says; nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from lorikeet_adapters import merges
from tests.server.world import BASE, Server

TEXT: dict[str, Any] = {
    "prompt": "Where is my parcel?",
    "max_tokens": 10,
    "ignore_eos": True,
    "temperature": 0,
}
WEIGHTS = [0.7, 0.5]


@pytest.fixture
def equal(client: TestClient) -> Iterator[list[str]]:
    """Two adapters of equal rank."""
    names = ["even", "odd"]
    for name, part in zip(names, ("formal", "triage"), strict=True):
        body = {"name": name, "adapters": [{"name": part}], "method": "svd", "rank": 2}
        assert client.post("/v1/adapters/compose", json=body).status_code == 201
    yield names
    for name in names:
        client.delete(f"/v1/adapters/{name}")


def ask(client: TestClient, ids: list[str], strategy: str, **more: Any) -> httpx.Response:
    density = {} if strategy == "linear" else {"density": 0.5}
    merged = {"ids": ids, "weights": WEIGHTS[: len(ids)], "merge_strategy": strategy, **density, **more}
    return client.post("/v1/completions", json={"model": BASE, "merged_adapters": merged, **TEXT})


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    said: str = answer.json()["choices"][0]["text"]
    return said


@pytest.mark.parametrize("strategy", ["ties", "dare_linear", "dare_ties"])
def test_a_merge_says_what_the_composed_adapter_says(
    client: TestClient, equal: list[str], strategy: str
) -> None:
    parts = [{"name": name, "weight": weight} for name, weight in zip(equal, WEIGHTS, strict=True)]
    generations = {name: client.get(f"/v1/adapters/{name}").json()["generation"] for name in equal}
    parts.sort(key=lambda part: generations[part["name"]])  # DARE draws in the order of the parts
    body = {"name": "composed", "adapters": parts, "method": strategy, "density": 0.5}
    assert client.post("/v1/adapters/compose", json=body).status_code == 201
    expected = text(client.post("/v1/completions", json={"model": "composed", **TEXT}))
    client.delete("/v1/adapters/composed")
    answers = [ask(client, equal, strategy) for _ in range(2)]
    assert [text(each) for each in answers] == [expected] * 2
    assert answers[0].headers["x-lorikeet-generation"].startswith("merge-")
    assert expected != text(ask(client, equal, "linear"))
    assert {client.get(f"/v1/adapters/{name}").json()["leases"] for name in equal} == {0}


def test_what_cannot_be_merged_fails_by_name_and_leases_nothing(client: TestClient, equal: list[str]) -> None:
    names = (*equal, "formal", "friendly")
    before = [client.get(f"/v1/adapters/{name}").json()["leases"] for name in names]
    for ids, more, status, words in (
        (["formal", "friendly"], {}, 422, "equal ranks"),
        (["even", "nobody"], {}, 404, "nobody"),
        (["even", "even"], {}, 422, "twice"),
        (equal, {"density": 1.5}, 400, "density"),
        (equal, {"density": 0}, 400, "density"),
    ):
        answer = ask(client, ids, "ties", **more)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]["message"]
    unknown = ask(client, equal, "average")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "invalid_request")
    assert [client.get(f"/v1/adapters/{name}").json()["leases"] for name in names] == before


def test_replacing_a_part_makes_another_merge_and_deleting_it_forgets_both(
    client: TestClient, equal: list[str], shared: tuple[Server, TestClient]
) -> None:
    first = ask(client, equal, "ties")
    body = {"name": "odd", "adapters": [{"name": "friendly"}], "method": "svd", "rank": 2, "replace": True}
    assert client.post("/v1/adapters/compose", json=body).status_code == 201
    second = ask(client, equal, "ties")
    assert text(first) != text(second)
    keys = {each.headers["x-lorikeet-generation"] for each in (first, second)}
    assert len(keys) == 2
    client.delete("/v1/adapters/even")
    ask(client, ["odd"], "linear")  # the engine has obeyed what came before
    assert not keys & shared[0].engine.stats.adapters.keys()


def test_only_so_many_merges_are_kept(
    client: TestClient, equal: list[str], shared: tuple[Server, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merges, "MOST_KEPT", 3)
    for number in range(8):
        text(ask(client, equal, "ties", density=0.2 + number / 20))
    text(ask(client, equal, "linear"))
    kept = [each for each in shared[0].engine.stats.adapters if merges.is_merge(each)]
    assert len(kept) <= 3
