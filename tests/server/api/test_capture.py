"""What the request log has is what was asked and what the client was told, on every route, streamed or not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_server.engine.request import Failure, FinishReason
from lorikeet_server.request_log.log import LARGEST, Bounds, RequestLog
from lorikeet_server.request_log.record import Record, Selection
from lorikeet_server.request_log.records import FILE
from tests.server.api.test_request_log import ROUTES
from tests.server.kept import written
from tests.server.keyed import Keyed, keyed
from tests.server.world import (
    BASE,
    ENDING_PROMPT,
    Exchange,
    Script,
    Scripted,
    Server,
    World,
    client_of,
    events_of,
    finished,
    lifespan_of,
    make_server,
    post,
    token,
    with_requests,
)

ALL = Selection()
CHAT = [
    {"role": "developer", "content": "Be kind."},
    {
        "role": "user",
        "content": [{"type": "text", "text": ENDING_PROMPT[:9]}, {"type": "text", "text": ENDING_PROMPT[9:]}],
    },
]
PLAIN = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ENDING_PROMPT}]
SEED = {"temperature": 1.5, "seed": 4}


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    data, keys = tmp_path_factory.mktemp("capture"), tmp_path_factory.mktemp("keys")
    with make_server(world, data, log=Bounds()) as server, keyed(server, keys) as made:
        yield made


def log_of(server: Server) -> RequestLog:
    assert server.log is not None
    return server.log


def captured(house: Keyed, path: str, body: dict[str, Any], count: int = 1) -> tuple[Any, list[Record]]:
    """The answer to a tenant's key, and the records it made, in the order of their endings."""
    log = log_of(house.server)
    with written(log, count):
        answer = post(house.by("asking"), path, body)
        assert answer.status_code == 200, answer.text
    return answer, log.records.page("acme", ALL, count)[::-1]


def told(answer: Any) -> str:
    """All the text that a client was told of one choice."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        said = answer.json()
        said = said[0] if isinstance(said, list) else said
        if "generated_text" in said:
            return str(said["generated_text"])
        (choice,) = said["choices"]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    events = [each for each in events_of(answer.text) if each != "[DONE]"]
    if "token" in events[-1]:
        return str(events[-1]["generated_text"])
    choices = [choice for each in events for choice in each["choices"]]
    return "".join(each.get("text") or each.get("delta", {}).get("content") or "" for each in choices)


@pytest.mark.parametrize("model", [BASE, "formal:0.7+friendly:0.3"])
@pytest.mark.parametrize("length", [3, 30])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate", "/"])
def test_every_route_is_kept(house: Keyed, path: str, stream: bool, length: int, model: str) -> None:
    body: dict[str, Any] = {"model": model, "max_tokens": length, "temperature": 0, "stream": stream}
    route = path
    if path == "/v1/chat/completions":
        body["messages"] = CHAT
    elif path == "/v1/completions":
        body["prompt"] = ENDING_PROMPT
    else:
        named = {} if model == BASE else {"adapter_id": model}
        parameters = {"max_new_tokens": length, "return_full_text": False, **named}
        body = {"inputs": ENDING_PROMPT, "parameters": parameters}
        if path == "/":
            body["stream"] = stream
        elif stream:
            route = "/generate_stream"
    answer, (kept,) = captured(house, route, body)
    assert (kept.route, kept.model, kept.tenant, kept.key) == (route, model, "acme", "asking")
    assert kept.answer == told(answer)
    assert (kept.messages, kept.prompt) == (
        (tuple(PLAIN), None) if path == "/v1/chat/completions" else (None, ENDING_PROMPT)
    )
    assert kept.finish_reason == ("length" if kept.completion_tokens == length else "stop")
    generations = answer.headers.get("x-lorikeet-generation", "")
    assert ",".join(each.generation for each in kept.mix) == generations
    parts = {} if model == BASE else {"formal": 0.7, "friendly": 0.3}
    weights = {
        house.by("operator").get(f"/v1/adapters/{name}").json()["generation"]: part
        for name, part in parts.items()
    }
    assert {each.generation: each.weight for each in kept.mix} == weights
    assert kept.total_s > 0
    if not stream and path.startswith("/v1"):
        usage = answer.json()["usage"]
        assert (kept.prompt_tokens, kept.completion_tokens) == (
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )
        assert kept.finish_reason == answer.json()["choices"][0]["finish_reason"]


def test_an_answer_that_ends_by_itself_is_kept_as_one(house: Keyed) -> None:
    body = {"model": BASE, "prompt": ENDING_PROMPT, "max_tokens": 30, "temperature": 0}
    answer, (kept,) = captured(house, "/v1/completions", body)
    assert kept.finish_reason == answer.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_each_choice_is_a_record_with_its_own_prompt(house: Keyed, stream: bool) -> None:
    prompts = ["Hello", "World"]
    body = {"model": BASE, "prompt": prompts, "n": 2, "max_tokens": 4, "ignore_eos": True, **SEED}
    answer, kept = captured(house, "/v1/completions", {**body, "stream": stream}, 4)
    if stream:
        choices = [choice for each in events_of(answer.text)[:-1] for choice in each["choices"]]
    else:
        choices = answer.json()["choices"]
    texts = ["".join(each["text"] for each in choices if each["index"] == at) for at in range(4)]
    assert len(set(texts)) > 2
    assert sorted((each.prompt or "", each.answer) for each in kept) == sorted(
        (prompts[at // 2], text) for at, text in enumerate(texts)
    )


def test_of_several_answers_those_are_kept_that_are_told(house: Keyed) -> None:
    body = {"model": BASE, "prompt": "Hello", "n": 2, "best_of": 6, "max_tokens": 4, "ignore_eos": True}
    answer, kept = captured(house, "/v1/completions", {**body, **SEED}, 2)
    assert [each.answer for each in kept] == [each["text"] for each in answer.json()["choices"]]
    parameters = {"best_of": 5, "do_sample": True, "max_new_tokens": 4, "ignore_eos_token": True, **SEED}
    answer, kept = captured(house, "/generate", {"inputs": "Hello", "parameters": parameters})
    assert [each.answer for each in kept] == [answer.json()["generated_text"]]
    _, (after,) = captured(house, "/generate", {"inputs": "after", "parameters": {"max_new_tokens": 1}})
    assert log_of(house.server).records.page("acme", ALL, 2) == [after, kept[-1]]  # and nothing between


@pytest.mark.parametrize("echo", [False, True])
def test_token_ids_are_kept_as_their_text_and_an_echo_is_no_answer(house: Keyed, echo: bool) -> None:
    ids = list(house.server.services.text.encode(ENDING_PROMPT))
    body = {"model": BASE, "prompt": ids, "max_tokens": 3, "echo": echo, "temperature": 0}
    answer, (kept,) = captured(house, "/v1/completions", body)
    assert kept.prompt == ENDING_PROMPT
    assert (ENDING_PROMPT if echo else "") + kept.answer == told(answer)


@pytest.mark.parametrize("reason", [FinishReason.FAILED, FinishReason.ABORTED])
@pytest.mark.parametrize("stream", [False, True])
def test_what_did_not_end_by_itself_is_not_kept(
    world: World, tmp_path: Path, reason: FinishReason, stream: bool
) -> None:
    failure = Failure("generation_failed", "gone") if reason is FinishReason.FAILED else None
    with make_server(world, tmp_path, log=Bounds()) as server:
        log, ends = log_of(server), [(reason, failure), (FinishReason.STOP, None)]
        log.start()
        requests = Scripted(
            lambda each: Script(token(each), finished(each, ends[0][0], failure=ends.pop(0)[1]))
        )
        app, body = with_requests(server.services, requests), {"model": BASE, "prompt": "Hello"}
        with written(log, 1):
            post(client_of(app), "/v1/completions", {**body, "stream": stream})
            assert post(client_of(app), "/v1/completions", body).status_code == 200
        assert [each.finish_reason for each in log.records.each(None, ALL)] == ["stop"]


def test_nothing_is_kept_of_a_client_that_has_left(world: World, tmp_path: Path) -> None:
    with make_server(world, tmp_path, log=Bounds()) as server:
        log, said = log_of(server), [[], [FinishReason.STOP]]
        log.start()
        requests = Scripted(lambda each: Script(token(each), *(finished(each, end) for end in said.pop(0))))
        app = with_requests(server.services, requests)
        body = b'{"model": "tiny", "prompt": "Hello"}'

        async def leave() -> None:
            exchange = Exchange("/v1/completions", body)
            exchange.left.set()
            await exchange.run(app)

        with written(log, 1):
            asyncio.run(leave())
            assert (
                post(client_of(app), "/v1/completions", {"model": BASE, "prompt": "Bye"}).status_code == 200
            )
        assert [each.prompt for each in log.records.each(None, ALL)] == ["Bye"]


@pytest.mark.safety("reliability 11")
def test_answers_go_on_while_the_line_is_full(world: World, tmp_path: Path) -> None:
    """The thread that writes is begun only afterwards."""
    with make_server(world, tmp_path, log=Bounds(waiting=2)) as server:
        log = log_of(server)
        server.app.router.lifespan_context = lifespan_of(server.bridge)
        with client_of(server.app) as client:
            for prompt in "abcde":
                answer = post(client, "/v1/completions", {"model": BASE, "prompt": prompt, "max_tokens": 2})
                assert answer.status_code == 200
            assert log.totals() == (0, 3)
            with written(log, 2):
                log.start()
            assert [each.prompt for each in log.records.each(None, ALL)] == ["a", "b"]
            metrics = client.get("/metrics").text
        assert "lorikeet_request_log_written_total 2.0" in metrics
        assert "lorikeet_request_log_dropped_total 3.0" in metrics


@pytest.mark.safety("reliability 11")
def test_an_answer_that_is_too_large_is_answered_and_not_kept(world: World, tmp_path: Path) -> None:
    with make_server(world, tmp_path, log=Bounds()) as server:
        log = log_of(server)
        log.start()
        requests = Scripted(lambda each: Script(token(each, "x" * LARGEST), finished(each)))
        body = {"model": BASE, "prompt": "Hello"}
        with written(log, 1):
            answer = post(client_of(with_requests(server.services, requests)), "/v1/completions", body)
        assert len(told(answer)) == LARGEST
        assert log.totals() == (0, 1)


@pytest.mark.safety("security 17")
def test_no_key_is_in_the_file(house: Keyed) -> None:
    captured(house, "/v1/completions", {"model": BASE, "prompt": "Hello", "max_tokens": 1})
    folder = house.server.jobs.files.path("x").parents[2]
    kept = (folder / FILE).read_bytes()
    assert b"Hello" in kept
    assert not [each for each in house.secrets.values() if each.encode() in kept]


@pytest.mark.safety("security 17")
def test_off_nothing_is_kept_and_the_routes_say_how_to_switch_it_on(server: Server, tmp_path: Path) -> None:
    with client_of(server.app) as client:
        assert post(client, "/v1/completions", {"model": BASE, "prompt": "Hello"}).status_code == 200
        for method, path in ROUTES:
            answer = client.request(method, path, json=None if method in ("GET", "DELETE") else {"x": 1})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_log_off")
            assert "start it with --request-log" in answer.json()["error"]["message"]
    assert not list(tmp_path.rglob(FILE))


def test_the_client_of_this_file_is_a_tenants(house: Keyed) -> None:
    client: TestClient = house.by("asking")
    assert client.get("/v1/requests").status_code == 403
