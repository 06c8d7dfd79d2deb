"""Bodies of the size that is allowed, made to cost: millions of values, each of them wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from lorikeet_server.api.app import create_app
from lorikeet_server.api.body import Body
from lorikeet_server.api.chat_body import ChatBody
from lorikeet_server.api.completion_body import CompletionBody
from lorikeet_server.api.composition import ComposeBody
from lorikeet_server.api.native_body import GenerateBody
from lorikeet_server.api.operations import OPERATIONS
from lorikeet_server.api.sources import RegisterBody
from lorikeet_server.api.tokens import DetokenizeBody
from lorikeet_server.api.value import MAX_VALUES, parse_json
from lorikeet_server.config import HttpConfig
from lorikeet_server.errors import RequestRefused
from tests.server.world import Exchange, Server

DOCUMENT = ("metadata", "json_schema_input_schema")  # of a schema: they check nothing
SIZE = HttpConfig().max_body_bytes
CHAT = b'"model": "tiny", "messages": [{"role": "user", "content": "a"}], '


def filled(head: bytes, item: bytes, tail: bytes) -> bytes:
    """As many of the item as a body may hold; `%d` in it is its place."""
    room, width = SIZE - len(head) - len(tail), len(item) + (6 if b"%d" in item else 1)
    items = (item % place if b"%d" in item else item for place in range(room // width))
    return head + b",".join(items) + tail


CHATS, NATIVE = (ChatBody, "/v1/chat/completions"), (GenerateBody, "/generate")
Parts = tuple[type[Body], str, bytes, bytes, bytes]
HOSTILE: dict[str, Parts] = {
    "parts": (*CHATS, b'{"model": "tiny", "messages": [{"role": "user", "content": [', b"{}", b"]}]}"),
    "no parts": (*CHATS, b'{"model": "tiny", "messages": [{"role": "user", "content": [', b"0", b"]}]}"),
    "merged": (*CHATS, b"{" + CHAT + b'"merged_adapters": {"ids": [', b"0", b"]}}"),
    "adapters": (*CHATS, b"{" + CHAT + b'"adapters": [', b"{}", b"]}"),
    "biases": (*CHATS, b"{" + CHAT + b'"logit_bias": {', b'"%d": {}', b"}}"),
    "keys": (*CHATS, b"{" + CHAT, b'"%d": 1', b"}"),
    "deep": (*CHATS, b"{" + CHAT + b'"response_format": [', b"[[[]]]", b"]}"),
    "choices": (*CHATS, b"{" + CHAT + b'"structured_outputs": {"choice": [', b"0", b"]}}"),
    "reals": (*NATIVE, b'{"inputs": "a", "parameters": {"stop": [', b"1e9", b"]}}"),
    "prompts": (CompletionBody, "/v1/completions", b'{"model": "tiny", "prompt": [', b"[]", b"]}"),
    "ids": (DetokenizeBody, "/detokenize", b'{"tokens": [', b"-1", b"]}"),
    "texts for ids": (DetokenizeBody, "/detokenize", b'{"tokens": [', b'""', b"]}"),
    "composed": (ComposeBody, "/v1/adapters/compose", b'{"name": "a", "adapters": [', b"0", b"]}"),
    "tenants": (RegisterBody, "/v1/adapters", b'{"name": "a", "tenants": [', b"0", b"]}"),
}


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_large_body_of_wrong_values_is_refused_for_few_reasons(name: str) -> None:
    """What it costs is what is made of it: a reason each, before any can be told."""
    kind, _, *parts = HOSTILE[name]
    raw = filled(*parts)
    assert SIZE * 0.85 < len(raw) <= SIZE
    assert 0 < reasons(kind, raw) <= 40_000


def reasons(kind: type[Body], raw: bytes) -> int:
    """That are made before one is told."""
    try:
        kind.model_validate(parse_json(raw))
    except RequestRefused:
        return 1
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("name", ["parts", "merged", "ids"])
def test_the_loop_goes_on_while_a_large_body_is_read(server: Server, name: str) -> None:
    """A client beside it: between its arrival and its answer, the loop has turns for others."""
    _, path, *parts = HOSTILE[name]
    raw = filled(*parts)
    app = create_app(replace(server.services, http=HttpConfig()))

    async def scenario() -> int:
        exchange = Exchange(path, raw)
        turns = 0

        async def beside() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += exchange.read == 1 and not exchange.status

        other = asyncio.ensure_future(beside())
        await exchange.run(app)
        other.cancel()
        assert exchange.status == 400, exchange.body[:200]
        return turns

    assert asyncio.run(scenario()) > 0


@pytest.mark.safety("security 10")
def test_no_list_in_any_body_is_read_to_its_end_for_reasons() -> None:
    """Each has a bound of its own, or is left at its first wrong item."""
    found = list(_lists({each.body for each in OPERATIONS.values() if each.body} | {RegisterBody}))
    assert len(found) > 15
    assert not [where for where, schema in found if "max_length" not in schema and "fail_fast" not in schema]


def _lists(kinds: set[type[Body]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in kinds:
        level: list[Any] = [kind.__pydantic_core_schema__]
        while level:
            each = level.pop()
            if isinstance(each, list | tuple):
                level += each
            elif isinstance(each, dict):
                if each.get("type") == "list":
                    yield kind.__name__, each
                level += [inner for key, inner in each.items() if key not in DOCUMENT]


def test_the_most_values_are_read_and_one_more_is_not() -> None:
    body = [{"a": [0.5, None]}] * ((MAX_VALUES - 1) // 4)
    exact = {"a": body, **{str(place): 0 for place in range((MAX_VALUES - 1) % 4)}}
    assert parse_json(json.dumps(exact).encode()) == exact
    with pytest.raises(RequestRefused, match=str(MAX_VALUES)):
        parse_json(json.dumps({**exact, "b": 1}).encode())


def test_token_ids_are_not_counted() -> None:
    body = {"tokens": [1] * 1_000_000}
    assert parse_json(json.dumps(body).encode()) == body
