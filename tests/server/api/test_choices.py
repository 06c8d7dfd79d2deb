"""Several answers to a prompt, several prompts, echo: whole and streamed, they are the same answers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_server.api.seeds import choice_seed
from lorikeet_server.engine.request import Failure, FinishReason
from tests.server.world import (
    BASE,
    CONTEXT,
    Exchange,
    Script,
    Scripted,
    Server,
    events_of,
    finished,
    post,
    token,
    with_requests,
)

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
PROMPT = "Where is my parcel?"
DRAWN: dict[str, Any] = {"temperature": 1.5, "seed": 11, "max_tokens": 10, "ignore_eos": True}
SOON = 20.0


def ask(client: TestClient, path: str = TEXT, **body: Any) -> Any:
    """The answer's JSON, or its events when it is a stream."""
    content = {"messages": [{"role": "user", "content": PROMPT}]} if path == CHAT else {"prompt": PROMPT}
    answer = post(client, path, {"model": BASE, **content, **DRAWN, **body})
    assert answer.status_code == 200, answer.text
    return events_of(answer.text) if body.get("stream") else answer.json()


def texts(answer: Any) -> list[str]:
    return [
        choice["message"]["content"] if "message" in choice else choice["text"]
        for choice in answer["choices"]
    ]


def streamed(events: list[Any]) -> dict[int, str]:
    """The text of each choice."""
    said: dict[int, str] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            text = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            said[choice["index"]] = said.get(choice["index"], "") + text
    return said


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_choices_are_the_answers_to_seeds_of_their_own(client: TestClient, path: str) -> None:
    answer = ask(client, path, n=3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    alone = [ask(client, path, seed=choice_seed(11, index)) for index in range(3)]
    assert texts(answer) == [texts(each)[0] for each in alone]
    assert len(set(texts(answer))) == 3
    usage = alone[0]["usage"]
    assert answer["usage"]["prompt_tokens"] == usage["prompt_tokens"], "a prompt counts once"
    assert answer["usage"]["completion_tokens"] == 3 * usage["completion_tokens"]


def test_the_first_seed_is_the_one_sent_and_no_two_are_alike() -> None:
    seeds = [choice_seed(11, index) for index in range(100)]
    assert seeds[0] == 11
    assert len(set(seeds)) == 100
    assert choice_seed(12, 1) != choice_seed(11, 1)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_streamed_choices_are_the_whole_ones(client: TestClient, path: str) -> None:
    whole = ask(client, path, n=4)
    *chunks, done = ask(client, path, n=4, stream=True, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert streamed([*chunks, done]) == dict(enumerate(texts(whole)))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    ends = Counter(
        choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]
    )
    assert ends == {0: 1, 1: 1, 2: 1, 3: 1}
    order = [chunk["choices"][0]["index"] for chunk in chunks[:-1]]
    assert order != sorted(order), "they come as they are made, not one after the other"


def test_each_choice_of_a_chat_stream_opens_with_the_role(client: TestClient) -> None:
    chunks = ask(client, CHAT, n=3, stream=True)[:-1]
    opened = [chunk["choices"][0] for chunk in chunks if "role" in chunk["choices"][0].get("delta", {})]
    assert [choice["index"] for choice in opened] == [0, 1, 2]
    assert opened == [chunk["choices"][0] for chunk in chunks[:3]]


def test_every_prompt_has_its_choices_in_a_row(client: TestClient) -> None:
    prompts = [PROMPT, "A refund, please.", "Hello"]
    answer = ask(client, prompt=prompts, n=2)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    alone = [text for each in prompts for text in texts(ask(client, prompt=each, n=2))]
    assert texts(answer) == alone
    assert streamed(ask(client, prompt=prompts, n=2, stream=True)) == dict(enumerate(alone))


def mean_logprob(choice: Any) -> float:
    values = choice["logprobs"]["token_logprobs"]
    return float(sum(values) / len(values))


def test_best_of_tells_the_answers_whose_tokens_are_the_most_likely(client: TestClient) -> None:
    every = ask(client, n=6, logprobs=0)
    ranked = sorted(every["choices"], key=mean_logprob, reverse=True)
    answer = ask(client, n=2, best_of=6)
    assert texts(answer) == [choice["text"] for choice in ranked[:2]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"] == every["usage"], "what was generated counts, told or not"
    prompts = [PROMPT, "Hello"]
    both = ask(client, prompt=prompts, best_of=3)
    assert texts(both) == [text for each in prompts for text in texts(ask(client, prompt=each, best_of=3))]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_says_the_prompt_before_each_answer(client: TestClient, stream: bool) -> None:
    plain = texts(ask(client, n=2))
    for prompt in (PROMPT, list(PROMPT.encode())):
        ids = post(client, TEXT, {"model": BASE, "prompt": PROMPT, "max_tokens": 1, "return_token_ids": True})
        sent = PROMPT if isinstance(prompt, str) else ids.json()["choices"][0]["prompt_token_ids"]
        answer = ask(client, n=2, echo=True, prompt=sent, stream=stream)
        said = list(streamed(answer).values()) if stream else texts(answer)
        assert said == [PROMPT + each for each in plain]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_alone_tells_the_prompt_and_generates_nothing(client: TestClient, stream: bool) -> None:
    body: dict[str, Any] = {"echo": True, "max_tokens": 0, "temperature": 0}
    answer = ask(client, **body)
    assert texts(answer) == [PROMPT]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert (answer["usage"]["completion_tokens"], answer["usage"]["prompt_tokens"]) == (0, len(PROMPT))
    assert answer["lorikeet"]["first_token_s"] is None
    assert streamed(ask(client, **body, stream=True)) == {0: PROMPT}


def test_a_prompt_as_long_as_the_context_can_be_echoed(client: TestClient) -> None:
    body: dict[str, Any] = {"prompt": [5] * CONTEXT, "echo": True, "logprobs": 0}
    answer = ask(client, **body, max_tokens=0)
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == CONTEXT
    refused = post(client, TEXT, {"model": BASE, **body, "max_tokens": 1})
    assert refused.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_token_ids_are_told_where_vllm_tells_them(client: TestClient, path: str) -> None:
    answer = ask(client, path, n=2, return_token_ids=True)
    *chunks, _ = ask(client, path, n=2, return_token_ids=True, stream=True)
    for index, choice in enumerate(answer["choices"]):
        assert len(choice["token_ids"]) == 10
        assert len(choice["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]
        own = [each for chunk in chunks for each in chunk["choices"] if each["index"] == index]
        assert [token for each in own for token in each["token_ids"]] == choice["token_ids"]
        assert own[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert not any("prompt_token_ids" in each for each in own[1:])
    if path == CHAT:
        assert answer["prompt_token_ids"] == answer["choices"][0]["prompt_token_ids"]
    assert "token_ids" not in ask(client, path)["choices"][0]


def test_penalties_and_bounds_reach_the_engine(client: TestClient) -> None:
    greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
    ids = [
        ask(client, **greedy, **more, return_token_ids=True)["choices"][0]["token_ids"]
        for more in (
            {},
            {"logit_bias": {"64": 100}},
            {
                "logit_bias": {"64": 100},
                "frequency_penalty": 2,
                "presence_penalty": 2,
                "repetition_penalty": 3,
            },
        )
    ]
    assert ids[1] == [64] * 24
    assert len(set(map(tuple, ids))) == 3
    drawn = [
        ask(client, **more)["choices"][0]["text"]
        for more in (
            {},
            {"min_p": 1.0},
            {"typical_p": 0.05},
            {"top_k": 1},
        )
    ]
    assert drawn[1] == drawn[3], "both leave the most likely token alone"
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
def test_one_choice_that_fails_ends_the_others_and_is_one_error(
    server: Server, path: str, stream: bool
) -> None:
    """The second fails, the others would never end by themselves."""

    def write(request: Any) -> Script:
        if len(made.scripts) + len(written) == 1:
            written.append(request)
            return Script(finished(request, FinishReason.FAILED, failure=Failure("non_finite", "not finite")))
        written.append(request)
        return Script(token(request))

    written: list[Any] = []
    made = Scripted(write)

    async def scenario() -> None:
        content = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {"prompt": "Hi"}
        body = {"model": BASE, "n": 3, "max_tokens": 4, "stream": stream, **content}
        exchange = await Exchange(path, json.dumps(body).encode()).run(with_requests(server.services, made))
        assert len(made.scripts) == 3
        assert all(script.closed for script in made.scripts)
        assert exchange.status == (200 if stream else 422)
        errors = events_of(exchange.body.decode()) if stream else [json.loads(exchange.body)]
        assert [each["error"]["code"] for each in errors if "error" in each] == ["non_finite"]
        assert "error" in errors[-1]

    asyncio.run(asyncio.wait_for(scenario(), SOON))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_all_choices(server: Server, stream: bool) -> None:
    async def scenario() -> None:
        async with server.app.router.lifespan_context(server.app):
            body = {
                "model": "formal",
                "prompt": ["a", "b"],
                "n": 3,
                "max_tokens": CONTEXT - 9,
                "ignore_eos": True,
            }
            exchange = Exchange(TEXT, json.dumps({**body, "stream": stream}).encode())
            answering = asyncio.create_task(exchange.run(server.app))
            while server.engine.stats.running < 6:
                await asyncio.sleep(0.001)
            assert server.leases()["formal"] == 6
            if stream:
                await exchange.said.wait()
            exchange.left.set()
            await answering
            last = await Exchange(
                TEXT, json.dumps({"model": BASE, "prompt": "a", "max_tokens": 1}).encode()
            ).run(server.app)
            assert last.status == 200
            assert server.engine.stats.running == server.engine.stats.waiting == 0
            assert set(server.leases().values()) == {0}
            read = server.services.metrics.registry.get_sample_value
            assert read("lorikeet_requests_total", {"reason": "aborted"}) == 6

    asyncio.run(asyncio.wait_for(scenario(), SOON))
