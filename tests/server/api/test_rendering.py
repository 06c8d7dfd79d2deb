"""The base's chat template is a program that others wrote: it runs in a sandbox, beside the loop, and not for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_server.api import backstage, rendering
from lorikeet_server.api.app import create_app
from tests.server.world import BASE, Server, client_of, post

CHAT = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
pytestmark = pytest.mark.safety("security 9")


class Stuck:
    """A codec whose template does not end until it is told to."""

    has_template = True

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self.end = threading.Event()

    def render(self, messages: Any) -> str:
        self.end.wait()
        return "late"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)


@pytest.fixture
def stuck(shared: tuple[Server, TestClient], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(rendering, "DEADLINE_S", 0.05)
    codec = Stuck(shared[0].services.text)
    with client_of(create_app(replace(shared[0].services, text=codec))) as client:
        yield client
        codec.end.set()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_template_that_does_not_end_is_a_refusal_and_holds_nobody_up(stuck: TestClient, path: str) -> None:
    body = CHAT if path != "/tokenize" else {"messages": CHAT["messages"]}
    with ThreadPoolExecutor(backstage.RENDERING) as pool:
        answers = list(pool.map(lambda _: post(stuck, path, body), range(backstage.RENDERING)))
    assert {each.status_code for each in answers} == {400}
    assert {each.json()["error"]["param"] for each in answers} == {"messages"}
    late = post(stuck, path, body)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "server_busy")
    assert stuck.get("/health").status_code == 200
    assert post(stuck, "/tokenize", {"prompt": "Hello"}).status_code == 200, "it needs no template"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for a in range(999999999) %}{% endfor %}",
    ],
)
def test_a_template_is_rendered_in_a_sandbox(shared: tuple[Server, TestClient], template: str) -> None:
    tokenizer = shared[0].services.text.backend  # type: ignore[attr-defined]
    kept = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        answer = post(shared[1], "/v1/chat/completions", CHAT)
    finally:
        tokenizer.chat_template = kept
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs"])
def test_a_client_cannot_send_one(client: TestClient, field: str) -> None:
    value: object = "{{ 1 }}" if field == "chat_template" else {"chat_template": "{{ 1 }}"}
    answer = post(client, "/v1/chat/completions", {**CHAT, field: value})
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
