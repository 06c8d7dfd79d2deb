"""POST /v1/chat/completions and /v1/completions: whole and streamed answers are the same answer."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_server.engine.tokenizer import Tokenizer
from tests.server.world import BASE, ENDING_PROMPT, Server, World, events_of, oracle, post

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is my parcel?"},
]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 20}
MIXES: dict[str, dict[str, float]] = {
    BASE: {},
    "formal": {"formal": 1.0},
    "formal:0.7+friendly:0.3": {"formal": 0.7, "friendly": 0.3},
    "triage:1.5+formal:-0.4": {"triage": 1.5, "formal": -0.4},
}


@pytest.fixture(scope="module")
def text(shared: tuple[Server, TestClient]) -> Tokenizer:
    made = shared[0].services.text
    assert isinstance(made, Tokenizer)
    return made


def ask(client: TestClient, path: str, **body: Any) -> Any:
    """The answer's JSON, or its events when it is a stream."""
    content = {"messages": MESSAGES} if path == CHAT else {"prompt": "Where is my parcel?"}
    answer = post(client, path, {"model": BASE, **content, **body})
    assert answer.status_code == 200, answer.text
    return events_of(answer.text) if body.get("stream") else answer.json()


def said(path: str, events: list[Any]) -> str:
    choices = [choice for event in events[:-1] for choice in event["choices"]]
    if path == TEXT:
        return "".join(choice["text"] for choice in choices)
    return "".join(choice["delta"].get("content", "") for choice in choices)


def text_of(path: str, answer: Any, index: int = 0) -> str:
    choice = answer["choices"][index]
    made: str = choice["text"] if path == TEXT else choice["message"]["content"]
    return made


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("model", list(MIXES))
def test_whole_and_streamed_texts_equal_generate(
    client: TestClient, world: World, text: Tokenizer, path: str, model: str
) -> None:
    prompt = text.render(MESSAGES) if path == CHAT else "Where is my parcel?"
    expected = text.decode(oracle(world, MIXES[model], list(text.encode(prompt)), 20))
    whole = ask(client, path, model=model, **GREEDY)
    events = ask(client, path, model=model, stream=True, **GREEDY)
    assert text_of(path, whole) == expected
    assert said(path, events) == expected
    assert events[-1] == "[DONE]"


def test_the_answers_of_different_mixes_differ(client: TestClient) -> None:
    assert len({text_of(TEXT, ask(client, TEXT, model=model, **GREEDY)) for model in MIXES}) == len(MIXES)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_the_objects_have_openais_fields(client: TestClient, path: str) -> None:
    whole = ask(client, path, **GREEDY)
    assert whole["object"] == ("chat.completion" if path == CHAT else "text_completion")
    assert whole["model"] == BASE
    assert isinstance(whole["created"], int)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["choices"][0]["logprobs"] is None
    usage = whole["usage"]
    assert usage["completion_tokens"] == 20
    assert usage["total_tokens"] == usage["prompt_tokens"] + 20
    ours = whole["lorikeet"]
    assert 0 <= ours["queue_s"] <= ours["first_token_s"] <= ours["total_s"]


def test_a_chat_stream_opens_with_the_role_and_every_chunk_has_one_id(client: TestClient) -> None:
    *chunks, done = ask(client, CHAT, stream=True, **GREEDY)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_usage_comes_in_one_last_chunk_when_asked_for(client: TestClient, path: str) -> None:
    *chunks, last, done = ask(client, path, stream=True, stream_options={"include_usage": True}, **GREEDY)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == ask(client, path, **GREEDY)["usage"]
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_usage_is_absent_when_not_asked_for(client: TestClient, path: str) -> None:
    *chunks, _ = ask(client, path, stream=True, **GREEDY)
    assert not any("usage" in chunk for chunk in chunks)


def test_an_end_of_turn_token_stops_and_is_not_said(client: TestClient, world: World) -> None:
    body: dict[str, Any] = {"prompt": ENDING_PROMPT, "temperature": 0, "max_tokens": 12}
    ended = ask(client, TEXT, **body)
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert 4 < ended["usage"]["completion_tokens"] < 12
    longer = ask(client, TEXT, **{**body, "ignore_eos": True})
    assert longer["choices"][0]["finish_reason"] == "length"
    assert text_of(TEXT, longer).startswith(text_of(TEXT, ended))
    by_id = ask(client, TEXT, **{**body, "ignore_eos": True, "stop_token_ids": [world.end]})
    assert by_id["choices"] == ended["choices"]


def answer_with_words(client: TestClient) -> tuple[str, str]:
    """A prompt whose greedy answer has three plain characters in a row, after something else."""
    for number in range(60):
        prompt = f"Question {number}"
        answer = text_of(TEXT, ask(client, TEXT, **{**GREEDY, "prompt": prompt, "max_tokens": 60}))
        found = re.search(r"(?<=.)[ -~]{3}", answer, re.DOTALL)
        if found and answer.index(found.group()) == found.start() > 0:
            return prompt, found.group()
    raise AssertionError("no answer has three plain characters in a row")


def test_a_stop_string_never_shows_in_a_stream(client: TestClient) -> None:
    """One byte is one token here, so the stop string is split across three tokens."""
    prompt, stop = answer_with_words(client)
    body = {**GREEDY, "prompt": prompt, "max_tokens": 60}
    full = text_of(TEXT, ask(client, TEXT, **body))
    for stops in (stop, [stop], ["never there", stop]):
        whole = ask(client, TEXT, **body, stop=stops)
        events = ask(client, TEXT, **body, stop=stops, stream=True)
        assert text_of(TEXT, whole) == said(TEXT, events) == full[: full.index(stop)]
        assert whole["choices"][0]["finish_reason"] == "stop"
        assert events[-2]["choices"][0]["finish_reason"] == "stop"


def test_what_only_begins_like_a_stop_string_is_said_after_all(client: TestClient) -> None:
    prompt, stop = answer_with_words(client)
    body = {**GREEDY, "prompt": prompt, "max_tokens": 60}
    full = text_of(TEXT, ask(client, TEXT, **body))
    assert said(TEXT, ask(client, TEXT, **body, stop=[stop + "\0"], stream=True)) == full


def test_a_seed_makes_sampling_repeatable(client: TestClient) -> None:
    body: dict[str, Any] = {"temperature": 1.5, "max_tokens": 16, "ignore_eos": True}
    first = text_of(CHAT, ask(client, CHAT, **body, seed=7))
    assert text_of(CHAT, ask(client, CHAT, **body, seed=7)) == first
    assert said(CHAT, ask(client, CHAT, **body, seed=7, stream=True)) == first
    assert text_of(CHAT, ask(client, CHAT, **body, seed=8)) != first
    unseeded = {text_of(CHAT, ask(client, CHAT, **body)) for _ in range(3)}
    assert len(unseeded) == 3


def test_prompts_come_as_text_lists_and_ids(client: TestClient, text: Tokenizer) -> None:
    one, two = "Where is my parcel?", "A refund, please."
    ids = [list(text.encode(each)) for each in (one, two)]
    singles = [text_of(TEXT, ask(client, TEXT, prompt=each, **GREEDY)) for each in (one, two)]
    forms: tuple[Any, ...] = ([one, two], ids)
    for form in forms:
        answer = ask(client, TEXT, prompt=form, **GREEDY)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
        assert [text_of(TEXT, answer, index) for index in (0, 1)] == singles
        assert answer["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])
        assert answer["usage"]["completion_tokens"] == 40
    assert text_of(TEXT, ask(client, TEXT, prompt=ids[0], **GREEDY)) == singles[0]


def test_text_parts_are_joined_and_developer_is_system(client: TestClient) -> None:
    parts = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        },
        {"role": "user", "content": [{"type": "text", "text": "Where is my parcel?"}]},
    ]
    assert text_of(CHAT, ask(client, CHAT, messages=parts, **GREEDY)) == text_of(
        CHAT, ask(client, CHAT, **GREEDY)
    )


def test_chat_without_a_bound_goes_on_to_the_end_of_the_context(client: TestClient) -> None:
    usage = ask(client, CHAT, temperature=0, ignore_eos=True)["usage"]
    assert usage["total_tokens"] == 256


def test_completions_without_a_bound_make_sixteen_tokens(client: TestClient) -> None:
    assert ask(client, TEXT, temperature=0, ignore_eos=True)["usage"]["completion_tokens"] == 16


def test_neutral_values_and_nulls_change_nothing(client: TestClient) -> None:
    plain = text_of(CHAT, ask(client, CHAT, **GREEDY))
    neutral: dict[str, Any] = {
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "min_p": 0,
        "min_tokens": 0,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "adapters": [],
        "lora": [],
        "merged_adapters": None,
        "functions": None,
        "stop": None,
        "seed": None,
    }
    assert text_of(CHAT, ask(client, CHAT, **GREEDY, **neutral)) == plain


def test_what_is_accepted_without_effect_has_none(client: TestClient) -> None:
    plain = text_of(CHAT, ask(client, CHAT, **GREEDY))
    idle = {
        "user": "u-1",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
    }
    assert text_of(CHAT, ask(client, CHAT, **GREEDY, **idle)) == plain
    named = [{**message, "name": "ada"} for message in MESSAGES]
    assert text_of(CHAT, ask(client, CHAT, messages=named, **GREEDY)) == plain
