"""POST /, the route that clients of LoRAX and TGI use: an array, or a stream when `stream` is true."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.world import (
    BASE,
    Scripted,
    Server,
    client_of,
    events_of,
    finished,
    post,
    token,
    with_requests,
)
from tests.server.world import Script as Events

PROMPT = "Where is my parcel?"
FIXED: dict[str, Any] = {"max_new_tokens": 8, "ignore_eos_token": True, "adapter_id": "formal"}
TIMES = {"x-total-time", "x-queue-time", "x-time-to-first-token", "x-time-per-token", "x-request-id"}


def ask(client: TestClient, path: str = "/", parameters: dict[str, Any] | None = None, **more: Any) -> Any:
    answer = post(client, path, {"inputs": PROMPT, "parameters": {**FIXED, **(parameters or {})}, **more})
    assert answer.status_code == 200, answer.text
    return answer


def test_a_whole_answer_is_the_one_of_generate_in_an_array(client: TestClient) -> None:
    parameters = {"details": True, "top_n_tokens": 2, "return_full_text": False}
    ask(client)  # from here on the prompt is kept, so both are computed alike, to the last bit
    whole, plain = ask(client, "/generate", parameters), ask(client, "/", parameters)
    assert plain.json() == [whole.json()]
    assert plain.headers["content-type"] == "application/json"
    kept = [{key: each.headers[key] for key in each.headers if key not in TIMES} for each in (whole, plain)]
    assert kept[0].pop("content-length") != kept[1].pop("content-length")
    assert kept[0] == kept[1]
    assert plain.headers["x-adapter-id"] == "formal"
    assert {each for each in plain.headers if each in TIMES} == TIMES


def test_a_stream_is_the_one_of_generate_stream(client: TestClient) -> None:
    parameters = {"top_n_tokens": 2, "return_full_text": False}
    ask(client)
    streams = [ask(client, "/generate_stream", parameters), ask(client, "/", parameters, stream=True)]
    assert streams[1].headers["content-type"].startswith("text/event-stream")
    assert events_of(streams[0].text) == events_of(streams[1].text)
    assert "[DONE]" not in streams[1].text


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_comes_first_unless_it_is_not_wanted(client: TestClient, stream: bool) -> None:
    """TGI's and LoRAX's default on this route, and on this route only."""

    def said(**parameters: Any) -> str:
        answer = ask(client, "/", parameters, stream=stream)
        made = events_of(answer.text)[-1] if stream else answer.json()[0]
        return str(made["generated_text"])

    text = said(return_full_text=False)
    assert text == ask(client, "/generate").json()["generated_text"]
    assert said() == said(return_full_text=True) == said(return_full_text=None) == PROMPT + text


def test_errors_are_those_of_the_native_routes(client: TestClient) -> None:
    unknown = post(client, "/", {"inputs": "a", "parameters": {"adapter_id": "nobody"}})
    assert (unknown.status_code, set(unknown.json())) == (404, {"error", "error_type"})
    for more in ({"best_of": 2, "do_sample": True}, {"decoder_input_details": True}):
        answer = post(client, "/", {"inputs": "a", "parameters": more, "stream": True})
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(f"parameters.{next(iter(more))}: ")
    answer = client.put("/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert set(answer.json()) == {"error", "error_type"}


def test_a_failure_after_the_first_byte_is_the_last_event(shared: tuple[Server, TestClient]) -> None:
    scripted = Scripted(lambda request: Events(token(request), token(request, index=1), ValueError("secret")))
    answer = ask(client_of(with_requests(shared[0].services, scripted)), "/", stream=True)
    first, last = events_of(answer.text)
    assert first["index"] == 1
    assert set(last) == {"error", "error_type"}
    assert "secret" not in answer.text
    assert scripted.scripts[0].closed


def test_the_base_is_served_without_parameters(shared: tuple[Server, TestClient]) -> None:
    scripted = Scripted(lambda request: Events(token(request, "yes"), finished(request)))
    answer = post(client_of(with_requests(shared[0].services, scripted)), "/", {"inputs": BASE})
    assert answer.json() == [{"generated_text": f"{BASE}yes"}]
