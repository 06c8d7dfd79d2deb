"""Answers of a form over HTTP: every spelling of the request, refusals, and what others notice of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from lorikeet_server.api import constraints
from lorikeet_server.api.app import create_app
from lorikeet_server.engine.constraint import Grammar, Refusal
from tests.server.engine.test_schema import HOSTILE
from tests.server.world import (
    BASE,
    Server,
    World,
    client_of,
    events_of,
    lifespan_of,
    make_server,
    make_world,
    post,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}
CHAT = {"model": BASE, "messages": [{"role": "user", "content": "Where is my order?"}], "max_tokens": 150}
TEXT = {"model": BASE, "prompt": "Where is my order?", "max_tokens": 150}


def wrapped(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The world's own end token is a letter; here it is the tokenizer's, which no text needs."""
    world: World = make_world(tmp_path_factory.mktemp("world"))
    (world.base / "generation_config.json").write_text("{}")
    with make_server(world, tmp_path_factory.mktemp("data")) as server, client_of(server.app) as made:
        yield made


def said(answer: Any) -> tuple[str, str]:
    choice = answer.json()["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"], choice["finish_reason"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "form",
    [
        {"response_format": wrapped(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
    ],
    ids=["openai", "vllm", "vllm text"],
)
@pytest.mark.parametrize("model", [BASE, "formal", "formal:0.5+triage:0.7"])
def test_a_schema_holds(client: TestClient, path: str, form: dict[str, Any], model: str) -> None:
    body = (CHAT if "chat" in path else TEXT) | form | {"model": model, "seed": 3}
    text, reason = said(post(client, path, body))
    assert reason == "stop", text
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"grammar": {"type": "json", "value": SCHEMA}},
        {"grammar": {"type": "json", "value": json.dumps(SCHEMA)}},
        {"grammar": {"type": "json_schema", "value": {"name": "a", "schema": SCHEMA}}},
    ],
    ids=["lorax", "tgi", "tgi text", "tgi json_schema"],
)
def test_a_schema_holds_on_the_native_routes(client: TestClient, form: dict[str, Any]) -> None:
    parameters = {"max_new_tokens": 150, "do_sample": True, "seed": 5, "details": True} | form
    answer = post(client, "/generate", {"inputs": "Hello", "parameters": parameters}).json()
    assert answer["details"]["finish_reason"] == "eos_token"
    jsonschema.validate(json.loads(answer["generated_text"]), SCHEMA)


@pytest.mark.parametrize(
    "form", [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}]
)
def test_a_json_object_is_begun_and_kept_to(client: TestClient, form: dict[str, Any]) -> None:
    """A random base rarely comes to an end by itself."""
    for seed in range(3):
        text, reason = said(post(client, "/v1/completions", TEXT | form | {"seed": seed}))
        assert text.startswith("{")
        if reason == "stop":
            assert isinstance(json.loads(text), dict)


def test_a_choice_holds(client: TestClient) -> None:
    choices = ["yes", "no", "perhaps, später"]
    body = CHAT | {"structured_outputs": {"choice": choices}}
    answers = {said(post(client, "/v1/chat/completions", body | {"seed": seed})) for seed in range(5)}
    assert {text for text, _ in answers} <= set(choices)
    assert {reason for _, reason in answers} == {"stop"}


def test_a_stream_says_the_same_as_an_answer(client: TestClient) -> None:
    body = CHAT | {"response_format": wrapped(SCHEMA), "seed": 11}
    whole, _ = said(post(client, "/v1/chat/completions", body))
    parts = events_of(post(client, "/v1/chat/completions", body | {"stream": True}).text)
    deltas = [choice["delta"].get("content", "") for part in parts[:-1] for choice in part["choices"]]
    assert "".join(deltas) == whole
    assert parts[-2]["choices"][0]["finish_reason"] == "stop"


def test_several_prompts_are_each_held_to_the_schema(client: TestClient) -> None:
    body = TEXT | {"prompt": ["One", "Two", "Three"], "response_format": wrapped(SCHEMA)}
    for choice in post(client, "/v1/completions", body).json()["choices"]:
        jsonschema.validate(json.loads(choice["text"]), SCHEMA)


def test_an_answer_cut_by_max_tokens_says_so(client: TestClient) -> None:
    body = CHAT | {"response_format": wrapped(SCHEMA), "max_tokens": 4}
    text, reason = said(post(client, "/v1/chat/completions", body))
    assert reason == "length"
    assert text.startswith("{")


def test_plain_text_asks_for_nothing(client: TestClient) -> None:
    plain = post(client, "/v1/completions", TEXT | {"seed": 1, "max_tokens": 9})
    form = {"response_format": {"type": "text"}}
    assert said(post(client, "/v1/completions", TEXT | {"seed": 1, "max_tokens": 9} | form)) == said(plain)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "regex"}}, "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is needed"),
    (
        {"response_format": {"type": "text", "json_schema": {"name": "a", "schema": {}}}},
        "response_format.json_schema",
        "belongs to",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        "required",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        "response_format.json_schema.name",
        "pattern",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
        "required",
    ),
    ({"response_format": wrapped("{")}, "", "not valid JSON"),
    (
        {"response_format": wrapped({"pattern": "(", "type": "string"})},
        "response_format",
        "regex parse error",
    ),
    ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex", "not supported"),
    ({"structured_outputs": {"grammar": "start: 1"}}, "structured_outputs.grammar", "not supported"),
    ({"structured_outputs": {}}, "structured_outputs", "send one of"),
    ({"structured_outputs": {"json": {}, "choice": ["a"]}}, "structured_outputs", "send one of"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "1 to 1024"),
    ({"structured_outputs": {"json": {"not": {}}}}, "structured_outputs.json", "#/not: this keyword"),
    (
        {"structured_outputs": {"json_object": True}, "response_format": {"type": "json_object"}},
        "response_format",
        "not both",
    ),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos", "cannot go with"),
    ({"guided_regex": "a"}, "guided_regex", "not supported"),
]


@pytest.mark.parametrize(("form", "param", "reason"), REFUSED)
def test_what_cannot_be_asked_is_refused_by_name(
    client: TestClient, form: dict[str, Any], param: str, reason: str
) -> None:
    answer = post(client, "/v1/chat/completions", CHAT | form)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["param"] or "") == param
    assert reason in error["message"]


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (
            {"grammar": {"type": "regex", "value": "a+"}},
            "parameters.grammar.type: regular expressions are not",
        ),
        ({"grammar": {"type": "json", "value": {"not": {}}}}, "parameters.grammar.value: #/not"),
        (
            {"grammar": {"type": "json_schema", "value": {"x": 1}}},
            "parameters.grammar.value: must have a schema",
        ),
        ({"response_format": {"type": "json_schema"}}, "parameters.response_format.schema: is needed"),
        ({"grammar": {"type": "json", "value": {}}, "response_format": {"type": "json_object"}}, "not both"),
        ({"grammar": {"type": "json", "value": {}}, "ignore_eos_token": True}, "parameters.ignore_eos_token"),
    ],
)
def test_what_cannot_be_asked_is_refused_on_the_native_routes(
    client: TestClient, form: dict[str, Any], reason: str
) -> None:
    answer = post(client, "/generate", {"inputs": "Hello", "parameters": form})
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


@pytest.mark.safety("security 11")
def test_hostile_schemas_are_quickly_refused_while_others_are_served(client: TestClient) -> None:
    good = CHAT | {"response_format": wrapped(SCHEMA), "seed": 7}
    expected = said(post(client, "/v1/chat/completions", good))
    for name, (schema, _) in HOSTILE.items():
        try:
            raw = json.dumps(CHAT | {"response_format": wrapped(schema)})
        except RecursionError:
            continue
        began = time.monotonic()
        answer = client.post(
            "/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 413), name
        assert time.monotonic() - began < 5.0, name
    assert said(post(client, "/v1/chat/completions", good)) == expected


class Slow:
    """Stands in for Grammars: what it is asked for never comes."""

    def __init__(self, begun: bool, full: bool = False) -> None:
        self.future: Future[Grammar | Refusal] = Future()
        self._full = full
        if begun:
            self.future.set_running_or_notify_cancel()

    def compile(self, _: object) -> Future[Grammar | Refusal] | None:
        return None if self._full else self.future


@pytest.mark.safety("security 11")
@pytest.mark.parametrize(
    ("grammars", "status", "code"),
    [
        (Slow(begun=True), 400, "invalid_constraint"),
        (Slow(begun=False), 503, "server_busy"),
        (Slow(begun=False, full=True), 503, "server_busy"),
    ],
    ids=["takes too long", "waits too long", "too many"],
)
def test_compilation_has_a_deadline(
    server: Server, grammars: Slow, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraints, "DEADLINE_S", 0.05)
    services = replace(server.services, grammars=grammars)
    with client_of(create_app(services, lifespan_of(server.bridge))) as client:
        answer = post(client, "/v1/completions", TEXT | {"response_format": {"type": "json_object"}})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert not grammars.future.cancelled(), "others may wait for it, too"
        assert post(client, "/v1/completions", TEXT | {"max_tokens": 2}).status_code == 200
    assert server.leases() == dict.fromkeys(server.leases(), 0)
