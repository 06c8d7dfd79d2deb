"""What is no proper JSON object never gets further than its first byte of meaning."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lorikeet_server.api.app import ROUTES
from lorikeet_server.api.envelope import NATIVE_PATHS
from lorikeet_server.api.value import MAX_DEPTH, parse_json
from lorikeet_server.errors import RequestRefused
from tests.server.world import BASE, HTTP, LOCAL, Exchange, Server

POSTS = sorted(route.path for route in ROUTES if "POST" in (route.methods or ()))
UPLOADS = ("/v1/adapters", "/v1/files")
# A form alone, and what is done to a job: they read no JSON.
WITHOUT_JSON = {
    "/v1/files",
    *(f"/v1/fine_tuning/jobs/{{id}}/{each}" for each in ("cancel", "pause", "resume")),
}
READERS = [path for path in POSTS if path not in WITHOUT_JSON]
JSON = {"content-type": "application/json"}
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  ",
    "cut": b'{"model": "tiny"',
    "array": b"[]",
    "string": b'"model"',
    "null": b"null",
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": Infinity}',
    "-Infinity": b'{"temperature": -Infinity}',
    "beyond a float": b'{"temperature": 1e999}',
    "beyond a float, deep": b'{"metadata": {"a": [-1e999]}}',
    "5000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "bad UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "tiny"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model": "tiny"}',
    "lone surrogate": b'{"model": "\\ud800"}',
    "lone surrogate as a key": b'{"\\udfff": 1}',
    "the same key twice": b'{"model": "tiny", "model": "formal"}',
    "deep": b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
    "very deep": b"[" * 90_000,
    "very deep objects": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    "two values": b"{}{}",
    "a comment": b"{} // no",
    "NUL": b"\0",
}


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("path", READERS)
@pytest.mark.parametrize("kind", list(MALFORMED))
def test_malformed_bodies_are_refused_before_anything_else(client: TestClient, path: str, kind: str) -> None:
    answer = client.post(path, content=MALFORMED[kind], headers=JSON)
    assert answer.status_code == (422 if path in NATIVE_PATHS else 400), answer.text
    error = answer.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert message.startswith(("the body", "the number", "an object in the body"))
    assert "python" not in message.lower()
    assert "sys." not in message


def test_the_same_reason_twice_is_not_found_by_chance() -> None:
    with pytest.raises(RequestRefused, match="same key twice"):
        parse_json(b'{"a": {"b": 1, "b": 1}}')
    assert parse_json(b'{"a": {"b": 1}, "c": {"b": 1}}') == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1])
def test_the_depth_bound_is_exact(depth: int) -> None:
    body = '{"a":' * depth + "1" + "}" * depth
    if depth > MAX_DEPTH:
        with pytest.raises(RequestRefused, match="deeper"):
            parse_json(body.encode())
    else:
        parse_json(body.encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), values, max_size=5))
def test_every_plain_object_comes_through_unchanged(value: dict[str, Any]) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.safety("security 10")
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_arbitrary_bytes_are_an_object_or_refused(raw: bytes) -> None:
    with suppress(RequestRefused):
        assert isinstance(parse_json(raw), dict)


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("path", READERS)
def test_a_body_over_the_limit_is_413(client: TestClient, path: str) -> None:
    answer = client.post(path, content=b" " * (HTTP.max_body_bytes + 1), headers=JSON)
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert str(HTTP.max_body_bytes) in (error if isinstance(error, str) else error["message"])


def test_a_body_of_exactly_the_limit_is_read(client: TestClient) -> None:
    body = json.dumps({"model": BASE, "prompt": "a", "max_tokens": 1}).encode()
    answer = client.post("/v1/completions", content=body.ljust(HTTP.max_body_bytes), headers=JSON)
    assert answer.status_code == 200


@pytest.mark.safety("security 10")
def test_a_chunked_body_is_not_read_past_the_limit(server: Server) -> None:
    """No content-length, and no end in sight: the chunks after the limit are never asked for."""

    async def scenario() -> None:
        chunk = b" " * (HTTP.max_body_bytes // 4)
        exchange = await Exchange("/v1/completions", *[chunk] * 50, more=True).run(server.app)
        assert exchange.status == 413
        assert exchange.read == 5
        assert json.loads(exchange.body)["error"]["code"] == "body_too_large"

    asyncio.run(scenario())


@pytest.mark.safety("security 10")
def test_a_body_in_single_bytes_is_put_together(server: Server) -> None:
    async def scenario() -> None:
        raw = b'{"model": "nobody", "prompt": "a"}'
        exchange = await Exchange("/v1/completions", *(bytes([byte]) for byte in raw)).run(server.app)
        assert exchange.status == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"],
)
@pytest.mark.parametrize("path", POSTS)
def test_a_body_that_does_not_call_itself_json_is_refused(
    client: TestClient, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post(path, content=b"{}", headers=headers)
    is_form_of_files = path in UPLOADS and kind is not None and kind.startswith("multipart")
    assert answer.status_code == (422 if path in NATIVE_PATHS else 403 if is_form_of_files else 400)
    assert ("x-lorikeet" if is_form_of_files else "application/json") in answer.text


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_carry_a_charset_and_any_case(client: TestClient, kind: str) -> None:
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 1}'
    answer = client.post(f"{LOCAL}/v1/completions", content=body, headers={"content-type": kind})
    assert answer.status_code == 200
