"""One meaning for every form of a mix, and never a silent fall back to the base."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_adapters.source import open_folder
from tests.server.world import BASE, Server, World, post

TEXT = "/v1/completions"
GREEDY: dict[str, Any] = {"prompt": "Hello", "temperature": 0, "ignore_eos": True, "max_tokens": 12}
NATIVE = {"max_new_tokens": 12, "ignore_eos_token": True}
BLEND = "formal:0.7+friendly:0.3"
FORMS: list[dict[str, Any]] = [
    {"model": BLEND},
    {"model": "friendly:0.3+formal:0.7"},
    {"model": "friendly:0.3 + formal:0.7"},
    {"model": "formal:0.4+friendly:0.3+formal:0.3"},
    {"model": BASE, "adapters": [{"name": "formal", "weight": 0.7}, {"name": "friendly", "weight": 0.3}]},
    {"model": BASE, "merged_adapters": {"ids": ["formal", "friendly"], "weights": [0.7, 0.3]}},
    {
        "model": BASE,
        "merged_adapters": {
            "ids": ["formal", "friendly"],
            "weights": [0.7, 0.3],
            "merge_strategy": "linear",
            "density": 1.0,
            "majority_sign_method": "total",
        },
    },
    {"model": BASE, "lora": [{"id": "formal", "scale": 0.7}, {"id": "friendly", "scale": 0.3}]},
]


def generations(server: Server, *names: str) -> str:
    return ",".join(sorted(server.registry.record(name).generation for name in names))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_the_same_mix(shared: tuple[Server, TestClient], form: dict[str, Any]) -> None:
    server, client = shared
    expected = post(client, TEXT, {**GREEDY, "model": BLEND}).json()
    answer = post(client, TEXT, {**GREEDY, **form})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-lorikeet-generation"] == generations(server, "formal", "friendly")
    assert answer.json()["choices"] == expected["choices"]
    assert [(each["generation"], round(each["weight"], 9)) for each in answer.json()["lorikeet"]["mix"]] == [
        (each["generation"], each["weight"]) for each in expected["lorikeet"]["mix"]
    ]


@pytest.mark.parametrize("path", ["/v1/chat/completions", TEXT])
def test_a_stream_names_its_generations_too(shared: tuple[Server, TestClient], path: str) -> None:
    server, client = shared
    content = {"prompt": "Hello"} if path == TEXT else {"messages": [{"role": "user", "content": "Hello"}]}
    answer = post(client, path, {"model": BLEND, "max_tokens": 2, "stream": True, **content})
    assert answer.headers["x-lorikeet-generation"] == generations(server, "formal", "friendly")


def test_native_forms_are_the_same_mix(client: TestClient) -> None:
    forms: list[dict[str, Any]] = [
        {"adapter_id": BLEND},
        {"merged_adapters": {"ids": ["formal", "friendly"], "weights": [0.7, 0.3]}},
        {"adapters": [{"name": "formal", "weight": 0.7}, {"name": "friendly", "weight": 0.3}]},
    ]
    answers = [
        post(client, "/generate", {"inputs": "Hello", "parameters": {**NATIVE, **form}}) for form in forms
    ]
    expected = post(client, TEXT, {**GREEDY, "model": BLEND})
    for answer in answers:
        assert answer.json()["generated_text"] == expected.json()["choices"][0]["text"]
        assert answer.headers["x-lorikeet-generation"] == expected.headers["x-lorikeet-generation"]


def test_the_base_has_no_generation(client: TestClient) -> None:
    assert "x-lorikeet-generation" not in post(client, TEXT, {**GREEDY, "model": BASE}).headers


@pytest.mark.parametrize(
    "model",
    [
        "nobody",
        "formal:0.7+nobody:0.3",
        "Formal",
        "formal ",
        "/etc/passwd",
        "../formal",
        "formal/../friendly",
        "%66ormal",
        "C:\\formal",
        "hub/formal",
        "form\u0430l",
        "n\0",
        "x" * 2000,
    ],
)
def test_an_unknown_name_is_404_and_never_the_base(client: TestClient, model: str) -> None:
    answer = post(client, TEXT, {**GREEDY, "model": model})
    assert answer.status_code == 404, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize(
    "form",
    [
        {"adapters": [{"name": "nobody"}]},
        {"merged_adapters": {"ids": ["formal", "nobody"]}},
        {"lora": [{"id": "nobody", "scale": 0.0}]},
    ],
    ids=str,
)
def test_an_unknown_name_inside_a_mix_is_404(client: TestClient, form: dict[str, Any]) -> None:
    answer = post(client, TEXT, {**GREEDY, "model": BASE, **form})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    native = post(client, "/generate", {"inputs": "Hello", "parameters": form})
    assert native.status_code == 404
    assert native.json()["error_type"] == "validation"


def test_an_exact_name_wins_over_parsing(shared: tuple[Server, TestClient], world: World) -> None:
    server, client = shared
    with open_folder(world.adapters["triage"]) as files:
        server.registry.register("formal:0.7", files)
    answer = post(client, TEXT, {**GREEDY, "model": "formal:0.7"})
    assert answer.headers["x-lorikeet-generation"] == generations(server, "triage")
    assert answer.json()["choices"] == post(client, TEXT, {**GREEDY, "model": "triage"}).json()["choices"]
    server.registry.delete("formal:0.7", 5)
    weighed = post(client, TEXT, {**GREEDY, "model": "formal:0.7"})
    assert weighed.json()["lorikeet"]["mix"] == [{"generation": generations(server, "formal"), "weight": 0.7}]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "formal:abc+friendly"}, "model"),
    ({"model": "formal+"}, "model"),
    ({"model": "+".join(["formal:nan", "friendly:1"])}, "model"),
    ({"model": "formal:inf"}, "model"),
    ({"model": "formal:101"}, "model"),
    ({"model": f"{BASE}:0.5"}, "model"),
    ({"model": f"{BASE}+formal"}, "model"),
    ({"model": "formal", "adapters": [{"name": "friendly"}]}, "model"),
    ({"model": BASE, "adapters": [{"name": "formal", "weight": 100.5}]}, "adapters"),
    ({"model": BASE, "adapters": [{"name": BASE, "weight": 0.5}]}, "adapters"),
    ({"model": BASE, "adapters": [{"name": "formal", "weight": "1"}]}, "adapters.0.weight"),
    ({"model": BASE, "adapters": [{"name": "formal", "wieght": 1}]}, "adapters.0.wieght"),
    ({"model": BASE, "lora": [{"id": "formal", "scale": -1e30}]}, "lora"),
    ({"model": BASE, "lora": [{"id": 0, "scale": 1}]}, "lora.0.id"),
    ({"model": BASE, "merged_adapters": {"ids": ["formal"], "weights": [1, 2]}}, "merged_adapters"),
    ({"model": BASE, "merged_adapters": {"ids": []}}, "merged_adapters.ids"),
    ({"model": BASE, "merged_adapters": {"ids": ["formal"], "weights": [1e30]}}, "merged_adapters"),
    (
        {"model": BASE, "merged_adapters": {"ids": ["formal"], "merge_strategy": "average"}},
        "merged_adapters.merge_strategy",
    ),
    (
        {"model": BASE, "merged_adapters": {"ids": ["formal"], "density": 0.5}},
        "merged_adapters.density",
    ),
    ({"model": BASE, "adapters": [{"name": "formal"}], "lora": [{"id": "formal", "scale": 1}]}, "adapters"),
]


@pytest.mark.parametrize(("form", "param"), REFUSED, ids=str)
def test_a_mix_that_cannot_be_read_is_400_naming_the_field(
    client: TestClient, form: dict[str, Any], param: str
) -> None:
    answer = post(client, TEXT, {**GREEDY, **form})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_an_unknown_strategy_is_refused_with_those_there_are(client: TestClient) -> None:
    merged = {"ids": ["formal", "friendly"], "weights": [0.5, 0.5], "merge_strategy": "average"}
    answer = post(client, TEXT, {**GREEDY, "model": BASE, "merged_adapters": merged})
    assert "'linear', 'ties', 'dare_linear' or 'dare_ties'" in answer.json()["error"]["message"]


def test_a_mix_of_too_many_is_refused_by_number(shared: tuple[Server, TestClient], world: World) -> None:
    server, client = shared
    names = [f"many-{number}" for number in range(17)]
    for name in names:
        with open_folder(world.adapters["triage"]) as files:
            server.registry.register(name, files)
    body = {"model": BASE, "adapters": [{"name": name} for name in names]}
    answer = post(client, TEXT, {**GREEDY, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_mix"
    assert "17" in answer.json()["error"]["message"]
    for name in names:
        server.registry.delete(name, 5)


def test_a_refusal_speaks_of_names_not_of_generations(client: TestClient) -> None:
    body = {"model": BASE, "adapters": [{"name": "formal", "weight": 1000}]}
    assert "`formal`" in post(client, TEXT, {**GREEDY, **body}).json()["error"]["message"]
