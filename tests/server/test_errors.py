"""One table from exceptions to answers, and nothing of the server's inside in any of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_adapters.errors import AdapterConflict, AdapterNotFound, LorikeetError, StoreError, StoreLocked
from lorikeet_server.api.app import create_app
from lorikeet_server.engine.request import Failure, FinishReason
from lorikeet_server.errors import (
    FAILURES,
    OPAQUE,
    TABLE,
    ContextTooLong,
    EngineDead,
    GenerationFailed,
    MixUnusable,
    RequestRefused,
    ServerBusy,
    error_of,
    http_error,
)
from lorikeet_server.server_desk import ServerRefused
from tests.server.world import (
    BASE,
    Script,
    Scripted,
    Server,
    client_of,
    events_of,
    finished,
    post,
    token,
    with_requests,
)

TEXT = "/v1/completions"
BODY = {"model": BASE, "prompt": "Hello", "max_tokens": 3}
NATIVE = {"inputs": "Hello", "parameters": {"max_new_tokens": 3}}
SECRET = "/srv/models/secret at 0x7f3a5c00"
OURS = ("lorikeet_adapters", "lorikeet_server", "lorikeet_trainer.jobs")


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for each in root.__subclasses__():
        yield from tree(each)


@pytest.mark.parametrize("kind", list(tree(LorikeetError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_of_its_own(kind: type[LorikeetError]) -> None:
    if kind.__module__.startswith(OURS) and kind is not ServerRefused:  # what a server told a command
        assert kind in TABLE


def test_the_table_names_no_stranger() -> None:
    assert set(TABLE) <= set(tree(LorikeetError))


def test_the_nearest_ancestor_decides() -> None:
    class Nearer(ContextTooLong):
        pass

    assert http_error(Nearer("x")) is TABLE[ContextTooLong]
    assert http_error(RequestRefused("x")) is TABLE[RequestRefused]
    del Nearer


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.code)
def test_rows_are_of_the_kind_their_status_says(row: Any) -> None:
    assert 400 <= row.status < 600
    assert (row.status >= 500) is (row.type == "server_error")
    assert (row.status in (429, 503)) is (row.retry_after is not None)
    assert row.retry_after is None or 0 < row.retry_after <= 120


@pytest.mark.parametrize("code", sorted(FAILURES))
def test_every_failure_of_the_engine_becomes_its_error(code: str) -> None:
    error = error_of(Failure(code, "why"))
    assert type(error) is FAILURES[code]
    assert error.code == code


def test_an_unknown_failure_is_ours() -> None:
    assert type(error_of(Failure("new", "why"))) is GenerationFailed


class Refusing(Scripted):
    """Takes no request: raises instead."""

    def __init__(self, error: Exception) -> None:
        super().__init__(lambda request: Script())
        self._error = error

    def submit(self, requests: Any) -> Any:
        raise self._error


def refusing(server: Server, error: Exception) -> TestClient:
    return client_of(with_requests(server.services, Refusing(error)))


INTERNAL = [
    RuntimeError(SECRET),
    KeyError(SECRET),
    ValueError(SECRET),
    AssertionError(SECRET),
    OSError(2, "No such file", SECRET),
    LorikeetError(SECRET),
    StoreError(SECRET),
    StoreLocked(SECRET),
    GenerationFailed(SECRET),
]


def assert_opaque(text: str) -> None:
    assert OPAQUE in text
    for part in ("secret", "/srv", "0x7f", "Error", "Traceback", "File "):
        assert part not in text.replace("internal_error", "").replace("store_error", "")


@pytest.mark.safety("security 13")
@pytest.mark.parametrize("error", INTERNAL, ids=lambda error: type(error).__name__)
def test_what_is_our_fault_says_one_fixed_sentence(
    shared: tuple[Server, TestClient], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    client = refusing(shared[0], error)
    with caplog.at_level(logging.ERROR):
        answer = post(client, TEXT, BODY, **{"x-request-id": "trace-7"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "trace-7"
    assert answer.json()["error"]["message"] == OPAQUE
    assert_opaque(answer.text)
    (record,) = caplog.records
    assert "trace-7" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert 'code="500",route="/v1/completions"} 1.0' in client.get("/metrics").text


@pytest.mark.safety("security 13")
@pytest.mark.parametrize("error", INTERNAL, ids=lambda error: type(error).__name__)
def test_on_native_routes_too(shared: tuple[Server, TestClient], error: Exception) -> None:
    answer = post(refusing(shared[0], error), "/generate", NATIVE)
    generation = type(error) is GenerationFailed
    assert answer.status_code == (424 if generation else 500)
    kind = "generation" if generation else "incomplete_generation"
    assert answer.json() == {"error": OPAQUE, "error_type": kind}


@pytest.mark.parametrize(
    ("error", "openai", "native", "kind", "retry"),
    [
        (ServerBusy("8 requests are waiting"), 503, 429, "overloaded", "1"),
        (EngineDead("the engine has stopped"), 503, 503, "generation", "30"),
        (MixUnusable("the mix is not finite"), 422, 422, "validation", None),
        (AdapterNotFound("gone"), 404, 404, "validation", None),
        (ContextTooLong("too long"), 400, 422, "validation", None),
        (AdapterConflict("taken"), 409, 409, "validation", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_both_shapes_of_one_error(
    shared: tuple[Server, TestClient],
    error: Exception,
    openai: int,
    native: int,
    kind: str,
    retry: str | None,
) -> None:
    client = refusing(shared[0], error)
    answer = post(client, TEXT, BODY)
    assert (answer.status_code, answer.headers.get("retry-after")) == (openai, retry)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["message"] == str(error)
    answer = post(client, "/generate", NATIVE)
    assert (answer.status_code, answer.headers.get("retry-after")) == (native, retry)
    assert answer.json() == {"error": str(error), "error_type": kind}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_mix_at_fault_is_named_by_the_field_that_said_it(
    shared: tuple[Server, TestClient], streamed: bool
) -> None:
    failure = Failure("non_finite", "why it failed")
    client = failing(shared[0], lambda each: finished(each, FinishReason.FAILED, failure=failure))
    body = {**BODY, "adapters": [{"name": "formal", "weight": 2.0}], "stream": streamed}
    answer = post(client, TEXT, body)
    error = (events_of(answer.text)[-1] if streamed else answer.json())["error"]
    assert (error["code"], error["param"]) == ("non_finite", "adapters")


def failing(server: Server, *events: Any) -> TestClient:
    """Its requests give one token and then what `events` say."""

    def write(request: Any) -> Script:
        made = [each(request) if callable(each) else each for each in events]
        return Script(token(request), *made)

    return client_of(with_requests(server.services, Scripted(write)))


@pytest.mark.parametrize("code", sorted(FAILURES))
@pytest.mark.parametrize("path", [TEXT, "/v1/chat/completions", "/generate_stream"])
def test_after_the_first_byte_a_failure_is_one_event_in_the_stream(
    shared: tuple[Server, TestClient], path: str, code: str
) -> None:
    failure = Failure(code, "why it failed")
    client = failing(shared[0], lambda each: finished(each, FinishReason.FAILED, failure=failure))
    answer = post(client, path, stream_body(path))
    assert answer.status_code == 200
    *_, last = events_of(answer.text)
    row = http_error(error_of(failure))
    message = OPAQUE if row.status == 500 else "why it failed"
    if path == "/generate_stream":
        assert last == {"error": message, "error_type": row.native_type}
    else:
        param = "model" if row.status == 422 else None  # the mix is at fault, and `model` said which
        assert last["error"] == {"message": message, "type": row.type, "param": param, "code": code}


@pytest.mark.safety("security 13")
@pytest.mark.parametrize("path", [TEXT, "/v1/chat/completions", "/generate_stream"])
def test_a_stream_that_breaks_says_the_fixed_sentence_and_ends(
    shared: tuple[Server, TestClient], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = failing(shared[0], RuntimeError(SECRET))
    with caplog.at_level(logging.ERROR):
        answer = post(client, path, stream_body(path))
    assert "[DONE]" not in answer.text
    assert_opaque(answer.text.splitlines()[-2])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("path", [TEXT, "/generate"])
def test_an_answer_cut_short_by_us_says_why_and_when_to_come_back(
    shared: tuple[Server, TestClient], path: str
) -> None:
    client = failing(shared[0], lambda each: finished(each, FinishReason.ABORTED))
    answer = post(client, path, BODY if path == TEXT else NATIVE)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "the server is stopping" in answer.text


def stream_body(path: str) -> dict[str, Any]:
    if path == "/generate_stream":
        return NATIVE
    content = {"prompt": "Hello"} if path == TEXT else {"messages": [{"role": "user", "content": "Hello"}]}
    return {"model": BASE, "max_tokens": 3, "stream": True, **content}


@pytest.mark.safety("security 13")
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_broken_registry_is_opaque(shared: tuple[Server, TestClient], method: str) -> None:
    class Broken:
        base_name = BASE

        def __getattr__(self, name: str) -> Any:
            raise OSError(5, "Input/output error", SECRET)

    services: Any = replace(shared[0].services, registry=Broken())  # type: ignore[arg-type]
    client = client_of(create_app(services))
    body = {"name": "a", "source": {"type": "local", "path": "formal"}} if method == "POST" else None
    path = "/v1/adapters/a" if method == "DELETE" else "/v1/adapters"
    answer = client.request(method, path, json=body)
    assert answer.status_code == 500
    assert_opaque(answer.text)


def test_a_base_without_a_template_says_so(shared: tuple[Server, TestClient]) -> None:
    class Plain:
        has_template = False

    services: Any = replace(shared[0].services, text=Plain())  # type: ignore[arg-type]
    client = client_of(create_app(services))
    answer = post(
        client, "/v1/chat/completions", {"model": BASE, "messages": [{"role": "user", "content": "a"}]}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_chat_template"


@pytest.mark.safety("reliability 3")
def test_who_is_refused_for_now_is_told_when_to_come_back() -> None:
    """OpenAI's client gives up when it is told more than 120 seconds."""
    for kind, row in TABLE.items():
        assert (row.retry_after is not None) is (row.status in (429, 503)), kind
        assert 1 <= (row.retry_after or 1) <= 120, kind
