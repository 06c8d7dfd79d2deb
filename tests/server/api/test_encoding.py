"""A text that no tokens of the context could hold is refused unread; long ones hold none of the threads that others need."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lorikeet_server.api import encoding
from lorikeet_server.api.backstage import PARSING
from lorikeet_server.engine.tokenizer import load_tokenizer
from tests.server.world import (
    BASE,
    CONTEXT,
    Exchange,
    Script,
    Scripted,
    Server,
    World,
    finished,
    with_requests,
)

pytestmark = pytest.mark.safety("reliability 3")


class Slow:
    """The same tokenizer; what is longer than LONG waits until it is let go."""

    def __init__(self, text: Any, longest: float) -> None:
        self.go_on = threading.Event()
        self.encoded: list[int] = []
        self.longest = longest
        self._text = text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._text, name)

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        self.encoded.append(len(text))
        if len(text) > encoding.LONG:
            assert self.go_on.wait(60)
        ids: tuple[int, ...] = self._text.encode(text[:20], special=special)
        return ids


@pytest.fixture
def text(shared: tuple[Server, TestClient]) -> Slow:
    return Slow(shared[0].services.text, longest=1e9)


@pytest.fixture
def app(shared: tuple[Server, TestClient], text: Slow) -> Starlette:
    services = replace(shared[0].services, text=text)
    return with_requests(services, Scripted(lambda request: Script(finished(request))))


def body(path: str, said: str) -> bytes:
    fields = {
        "/v1/completions": f'"model": "{BASE}", "prompt": "{said}", "max_tokens": 1',
        "/v1/chat/completions": f'"model": "{BASE}", "messages": [{{"role": "user", "content": "{said}"}}]',
        "/generate": f'"inputs": "{said}"',
        "/tokenize": f'"prompt": "{said}"',
    }
    return ("{" + fields[path] + "}").encode()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/generate"])
def test_a_text_beyond_the_context_is_refused_unread(app: Starlette, text: Slow, path: str) -> None:
    text.longest = 2
    done = asyncio.run(Exchange(path, body(path, "x" * (2 * CONTEXT + 1))).run(app))
    assert done.status in (400, 422)
    assert str(2 * CONTEXT + 1).encode() in done.body or b"characters" in done.body
    assert text.encoded == []


def test_tokens_may_be_counted_of_any_text(app: Starlette, text: Slow) -> None:
    text.longest = 2
    assert asyncio.run(Exchange("/tokenize", body("/tokenize", "x" * 5000)).run(app)).status == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/generate", "/tokenize"])
def test_many_long_texts_keep_a_short_one_waiting_not_at_all(app: Starlette, text: Slow, path: str) -> None:
    """More of them than the application has threads."""

    async def scenario() -> None:
        long = body(path, "x" * (encoding.LONG + 1))
        many = [asyncio.create_task(Exchange(path, long).run(app)) for _ in range(50)]
        while len(text.encoded) < PARSING:
            await asyncio.sleep(0.001)
        assert (await Exchange("/v1/completions", body("/v1/completions", "short")).run(app)).status == 200
        assert len([each for each in text.encoded if each > encoding.LONG]) == PARSING
        text.go_on.set()
        assert {each.status for each in await asyncio.gather(*many)} == {200}

    asyncio.run(scenario())


def test_no_text_within_the_context_is_over_the_bound(world: World) -> None:
    """The longest token of the vocabulary, as often as the context holds it."""
    tokenizer = load_tokenizer(str(world.base))
    longest = max(range(300), key=lambda each: len(tokenizer.token_text(each)))
    said = tokenizer.token_text(longest) * CONTEXT
    assert len(said) <= CONTEXT * tokenizer.longest
    assert tokenizer.longest < 200
