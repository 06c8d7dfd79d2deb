"""One line a request, with nothing in it that a client should not find in a log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lorikeet_server.api import access_log
from lorikeet_server.errors import ServerBusy
from tests.server.keyed import Keyed, keyed
from tests.server.world import (
    BASE,
    Exchange,
    Script,
    Scripted,
    Server,
    World,
    client_of,
    make_server,
    post,
    token,
    with_requests,
)

FIELDS = {
    "time", "request_id", "method", "route", "status", "error", "duration_s", "tenant", "key", "model",
    "adapters", "prompt_tokens", "completion_tokens",
}  # fmt: skip
PROMPT = "Wherefore-art-thou"


class Lines:
    """What the log has got since it was last read."""

    def __init__(self) -> None:
        self.text = io.StringIO()

    def read(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.text.getvalue().splitlines()]
        self.text.truncate(0)
        self.text.seek(0)
        return found

    def one(self) -> dict[str, Any]:
        (line,) = self.read()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    handler = logging.StreamHandler(made.text)
    level, propagate = access_log.log.level, access_log.log.propagate
    access_log.log.addHandler(handler)
    access_log.log.setLevel(logging.INFO)
    access_log.log.propagate = False
    yield made
    access_log.log.removeHandler(handler)
    access_log.log.setLevel(level)
    access_log.log.propagate = propagate


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with (
        make_server(world, tmp_path_factory.mktemp("log")) as server,
        keyed(server, tmp_path_factory.mktemp("keys")) as made,
    ):
        yield made


def test_a_line_says_who_asked_for_what_and_what_it_came_to(house: Keyed, lines: Lines) -> None:
    body = {"model": "formal:0.5+friendly", "prompt": PROMPT, "max_tokens": 5, "ignore_eos": True}
    answer = post(house.by("asking"), "/v1/completions", body, **{"x-request-id": "r-1"})
    line = lines.one()
    assert line.keys() == FIELDS
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert 0 < line.pop("duration_s") < 60
    assert line == {
        "request_id": "r-1",
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
        "error": None,
        "tenant": "acme",
        "key": "asking",
        "model": "formal:0.5+friendly",
        "adapters": ["formal", "friendly"],
        "prompt_tokens": answer.json()["usage"]["prompt_tokens"],
        "completion_tokens": 5,
    }


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_counted_in_every_form(house: Keyed, lines: Lines, stream: bool) -> None:
    body = {"model": BASE, "prompt": PROMPT, "max_tokens": 4, "ignore_eos": True, "stream": stream}
    post(house.by("operator"), "/v1/completions", body)
    line = lines.one()
    assert (line["completion_tokens"], line["adapters"], line["model"]) == (4, [], BASE)
    parameters = {"max_new_tokens": 3, "ignore_eos_token": True, "adapter_id": "formal"}
    path = "/generate_stream" if stream else "/generate"
    post(house.by("operator"), path, {"inputs": PROMPT, "parameters": parameters})
    line = lines.one()
    assert (line["completion_tokens"], line["adapters"], line["tenant"]) == (3, ["formal"], None)


def test_a_prompt_of_several_answers_is_counted_as_its_usage_counts_it(house: Keyed, lines: Lines) -> None:
    body = {"model": BASE, "prompt": [PROMPT, "Thou"], "max_tokens": 2, "ignore_eos": True, "n": 3}
    usage = post(house.by("operator"), "/v1/completions", body).json()["usage"]
    line = lines.one()
    told = (line["prompt_tokens"], line["completion_tokens"])
    assert told == (usage["prompt_tokens"], usage["completion_tokens"])
    parameters = {"max_new_tokens": 2, "best_of": 2, "do_sample": True, "details": True}
    answer = post(house.by("operator"), "/generate", {"inputs": PROMPT, "parameters": parameters})
    assert lines.one()["prompt_tokens"] == answer.json()["details"]["prompt_tokens"]


@pytest.mark.parametrize("path", ["/v1/completions", "/generate_stream"])
@pytest.mark.parametrize(
    ("error", "code"),
    [(ServerBusy("full"), "server_busy"), (ValueError("a bug"), "generation_failed")],
    ids=["ours", "bug"],
)
def test_a_stream_that_ends_in_an_error_has_it_in_its_line(
    shared: tuple[Server, TestClient], lines: Lines, path: str, error: Exception, code: str
) -> None:
    app = with_requests(shared[0].services, Scripted(lambda request: Script(token(request), error)))
    body = {"inputs": PROMPT} if path == "/generate_stream" else {"model": BASE, "prompt": PROMPT}
    post(client_of(app), path, {**body, "stream": True})
    line = lines.one()
    assert (line["status"], line["error"]) == (200, code)


def test_a_client_that_leaves_before_its_answer_has_the_status_0(
    shared: tuple[Server, TestClient], lines: Lines
) -> None:
    app = with_requests(shared[0].services, Scripted(lambda request: Script(token(request))))
    exchange = Exchange("/v1/completions", json.dumps({"model": BASE, "prompt": PROMPT}).encode())
    exchange.left.set()
    asyncio.run(exchange.run(app))
    assert lines.one()["status"] == 0


def test_refusals_have_their_line(house: Keyed, lines: Lines) -> None:
    house.client.get("/v1/models")
    house.by("asking").get("/v1/adapters")
    post(house.by("asking"), "/v1/completions", {"model": "nobody\n", "prompt": PROMPT})
    house.client.get("/nowhere")
    house.client.get("/health")
    found = [
        (each["status"], each["error"], each["key"], each["route"], each["model"]) for each in lines.read()
    ]
    assert found == [
        (401, "invalid_api_key", None, "/v1/models", None),
        (403, "insufficient_scope", None, "/v1/adapters", None),
        (404, "model_not_found", "asking", "/v1/completions", None),
        (401, "invalid_api_key", None, "other", None),
        (200, None, None, "/health", None),
    ]


@pytest.mark.safety("security 13")
def test_no_prompt_no_key_no_path_and_no_query_is_in_it(house: Keyed, lines: Lines) -> None:
    secret = house.secrets["operator"]
    client = house.by("operator")
    post(client, "/v1/completions", {"model": BASE, "prompt": PROMPT, "max_tokens": 2})
    post(client, "/v1/completions", {"model": PROMPT, "prompt": PROMPT, "user": PROMPT})
    post(client, "/generate", {"inputs": PROMPT, "parameters": {"api_token": secret, "max_new_tokens": 2}})
    client.get(f"/v1/models/{PROMPT}")
    client.get(f"/v1/models?api_key={secret}")
    client.get(f"/{secret}")
    house.client.get("/v1/models", headers={"authorization": f"Bearer {PROMPT}"})
    client.get("/v1/models", headers={"x-request-id": f"{PROMPT} {secret}"})
    text = lines.text.getvalue()
    assert len(text.splitlines()) == 8
    assert PROMPT not in text
    assert not [each for each in house.secrets.values() if each in text]


def test_a_method_cannot_end_the_line(house: Keyed, lines: Lines) -> None:
    house.client.request('GET\x1b[2J"', "/v1/models")
    text = lines.text.getvalue()
    assert text.isascii()
    assert text[:-1].isprintable()
    assert lines.one()["status"] == 401


@given(st.text())
def test_whatever_a_text_holds_the_line_is_one_and_printable(text: str) -> None:
    line = access_log.plain({"text": text})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"text": text}


def test_the_switch_is_off_by_default(
    shared: tuple[Server, TestClient], capfd: pytest.CaptureFixture[str]
) -> None:
    level, propagate = access_log.log.level, access_log.log.propagate
    try:
        access_log.switch(False)
        shared[1].get("/health")
        assert capfd.readouterr().err == ""
        access_log.switch(True)
        shared[1].get("/health")
        assert json.loads(capfd.readouterr().err)["route"] == "/health"
    finally:
        access_log.log.handlers.clear()
        access_log.log.setLevel(level)
        access_log.log.propagate = propagate
