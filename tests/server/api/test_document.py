"""/openapi.json says what the routes do: every route, every body they take, every way to fail."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route
from starlette.testclient import TestClient

from lorikeet_server.api.app import ROUTES
from lorikeet_server.api.body import Body
from lorikeet_server.api.document import PARAMETERS, document
from lorikeet_server.api.envelope import NATIVE_PATHS
from lorikeet_server.api.gate import NEEDS, OPEN, open_routes
from lorikeet_server.api.operations import JSON, OPERATIONS
from lorikeet_server.errors import TABLE
from tests.server.kept import put, record
from tests.server.world import BASE, post

DOCUMENT = document()
MESSAGES = [{"role": "user", "content": "Hello"}]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def schema_of(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}


def accepts(name: str, body: object) -> bool:
    return Draft202012Validator(schema_of(name)).is_valid(body)


def test_it_is_what_the_server_sends(client: TestClient) -> None:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == JSON
    assert answer.json() == json.loads(json.dumps(DOCUMENT))
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_routes_and_document_name_the_same_operations() -> None:
    routed = {
        (method, route.path.replace(":path}", "}"))
        for route in ROUTES
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert isinstance(ROUTES[0], Route)
    assert {(method, path) for method, path, _ in operations()} == routed == OPERATIONS.keys()


def test_every_error_status_stands_somewhere_with_its_code() -> None:
    told = {
        (int(status), code)
        for _, path, operation in operations()
        if path not in NATIVE_PATHS
        for status, answer in operation["responses"].items()
        if int(status) >= 400
        for code in answer["description"].split(", ")
    }
    assert {(row.status, row.code) for row in TABLE.values()} <= told


@pytest.mark.parametrize("path", sorted(NATIVE_PATHS))
def test_native_routes_have_their_own_statuses_and_shape(path: str) -> None:
    answers = DOCUMENT["paths"][path]["post"]["responses"]
    assert {"422", "424", "429"} <= answers.keys()
    assert "400" not in answers
    schema = answers["424"]["content"][JSON]["schema"]
    assert schema == {"$ref": "#/components/schemas/NativeError"}


def test_without_keys_no_operation_needs_one() -> None:
    assert "securitySchemes" not in DOCUMENT["components"]
    assert not [path for _, path, operation in operations() if "security" in operation]


@pytest.mark.parametrize("open_metrics", [False, True])
def test_with_keys_each_operation_names_the_scopes_that_open_it(open_metrics: bool) -> None:
    made = document(open_routes(open_metrics))
    (scheme,) = made["components"]["securitySchemes"]
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            told = {scope for each in operation.get("security", ()) for scope in each[scheme]}
            is_open = path in OPEN or (open_metrics and path.startswith("/metrics"))
            is_open |= (method, path) in (("get", "/"), ("get", "/console/{file}"))
            assert told == (set() if is_open else NEEDS[path.replace("{name}", "{name:path}")])


def test_it_is_sound() -> None:
    """What a validator of OpenAPI checks and the meta-schema of JSON Schema can: ids, references, schemas."""
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for name in DOCUMENT["components"]["schemas"]:
        Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    for _, path, operation in operations():
        told = {each["$ref"].rpartition("/")[2] for each in operation.get("parameters", ())}
        in_path = {name for name in told if PARAMETERS[name]["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert all("description" in answer for answer in operation["responses"].values())


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        ),
        ("/v1/chat/completions", {"messages": MESSAGES, "stop": "x", "user": None, "seed": None}),
        ("/v1/chat/completions", {"messages": MESSAGES, "stop": ["x"], "store": True, "metadata": {"a": 1}}),
        ("/v1/completions", {"prompt": "a", "temperature": None, "logit_bias": {"5": 1}}),
        ("/v1/completions", {"prompt": "a", "no_such_field": None}),
        ("/v1/completions", {"prompt": [1, 2]}),
        ("/v1/completions", {"prompt": ["a", "b"], "adapters": [{"name": "formal", "weight": 0.5}]}),
        ("/v1/completions", {"prompt": "a", "lora": [{"id": "formal", "scale": 1}]}),
        ("/generate", {"inputs": "a", "parameters": {"adapter_id": "formal", "api_token": "x"}}),
        ("/", {"inputs": "a", "stream": False, "parameters": {"max_new_tokens": 1}}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1]}),
    ],
)
def test_what_the_server_takes_the_document_takes(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    if path.startswith("/v1/c"):
        body = {"model": BASE, "max_tokens": 1, **body}
    answer = post(client, path, body)
    assert answer.status_code == 200, answer.text
    operation = DOCUMENT["paths"][path]["post"]
    name = operation["requestBody"]["content"][JSON]["schema"]["$ref"].rpartition("/")[2]
    assert accepts(name, body)
    promised = operation["responses"]["200"]["content"][JSON]["schema"]
    Draft202012Validator(promised).validate(answer.json())


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ChatBody", {"model": BASE, "messages": []}),
        ("ChatBody", {"model": BASE, "messages": MESSAGES, "temperature": 3}),
        ("ChatBody", {"model": BASE, "messages": MESSAGES, "no_such_field": 1}),
        ("ChatBody", {"model": BASE, "messages": MESSAGES, "stop": 5}),
        ("CompletionBody", {"model": None, "prompt": "a"}),
        ("LoadBody", {"lora_name": "a"}),
        ("TrialBody", {"name": "a", "source": {"type": "local"}}),
        ("AliasBody", {"targets": [{"name": "a", "generation": "short"}]}),
    ],
)
def test_what_the_types_refuse_the_document_refuses(name: str, body: dict[str, Any]) -> None:
    assert not accepts(name, body)


def test_no_body_has_a_field_that_the_document_leaves_out() -> None:
    bodies: list[type[Body]] = [each.body for each in OPERATIONS.values() if each.body is not None]
    for body in bodies:
        told = DOCUMENT["components"]["schemas"][body.__name__]["properties"].keys()
        assert told == body.model_fields.keys() | body.NEUTRAL.keys() | body.NO_EFFECT, body


def made(client: TestClient, path: str) -> str:
    """A kept request, a file, or a job of it that fails for its one row."""
    if "{id}" not in path:
        return ""
    if path.startswith("/v1/requests"):
        log = client.app.state.services.request_log  # type: ignore[attr-defined]
        kept = record(created=time.time())
        put(log, kept)
        return kept.id
    sent = {"files": {"file": ("rows.jsonl", b"{}")}, "data": {"purpose": "fine-tune"}}
    file = client.post("/v1/files", **sent, headers={"x-lorikeet": "1"}).json()["id"]
    if "jobs" not in path:
        return str(file)
    return str(post(client, "/v1/fine_tuning/jobs", {"model": BASE, "training_file": file}).json()["id"])


@pytest.mark.parametrize(
    ("path", "given"),
    [
        (path, given)
        for (method, path), operation in OPERATIONS.items()
        if method == "GET" and operation.keys
        for given in [path.replace("{name}", "formal" if "aliases" not in path else "documented")]
    ],
)
def test_an_answer_has_the_keys_it_is_promised_to_have(client: TestClient, path: str, given: str) -> None:
    if path == "/v1/aliases/{name}":
        target = {"targets": [{"name": "formal"}]}
        assert client.put(given, json=target).status_code in (200, 201)
    answer = client.get(given.replace("{id}", made(client, path)))
    assert answer.status_code == 200
    promised = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"][JSON]["schema"]
    Draft202012Validator(promised).validate(answer.json())
    if path == "/v1/aliases/{name}":
        assert client.delete(given).status_code == 200
