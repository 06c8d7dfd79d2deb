"""Every wrong field is named, all at once; what is not built is refused, what asks for nothing is not."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_server.api.body import Body
from lorikeet_server.api.chat_body import ChatBody
from lorikeet_server.api.completion_body import CompletionBody
from lorikeet_server.api.native_body import GenerateBody, Parameters
from lorikeet_server.errors import RequestRefused
from tests.server.world import BASE, post

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": BASE, "messages": USER, "max_tokens": 2},
    TEXT: {"model": BASE, "prompt": "Hello", "max_tokens": 2},
}
NOT_BUILT: dict[str, Any] = {
    "suffix": "end",
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "guided_json": {},
    "chat_template": "{{ 1 }}",
    "prompt_embeds": "AAAA",
    "truncate_prompt_tokens": 5,
    "temprature": 0.5,
}
OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("model", ""),
    ("model", 3),
    ("model", "x" * 2049),
    ("temperature", -0.01),
    ("temperature", 2.01),
    ("temperature", "0.5"),
    ("temperature", True),
    ("temperature", 10**400),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", -2),
    ("top_k", 1.5),
    ("top_k", 2**31),
    ("top_k", 10**30),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("seed", 1.5),
    ("stop", [""]),
    ("stop", ["a"] * 17),
    ("stop", "x" * 257),
    ("stop", [1]),
    ("stop_token_ids", ["a"]),
    ("stop_token_ids", list(range(65))),
    ("stream", 1),
    ("stream", "true"),
    ("ignore_eos", 0),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 1.0),
    ("max_tokens", True),
    ("stream_options", {"include_usage": True}),
    ("n", True),
    ("n", 0),
    ("n", 129),
    ("n", 10**30),
    ("logprobs", 1.0),
    ("logprobs", "true"),
    ("presence_penalty", 2.01),
    ("presence_penalty", -2.01),
    ("frequency_penalty", 3),
    ("repetition_penalty", 0),
    ("repetition_penalty", -1),
    ("repetition_penalty", 101),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("typical_p", 0),
    ("typical_p", 1.1),
    ("min_tokens", -1),
    ("min_tokens", 3),  # of two
    ("prompt_logprobs", -1),
    ("prompt_logprobs", 21),
    ("prompt_logprobs", True),
    ("return_token_ids", 1),
    ("logit_bias", {"5": 101}),
    ("logit_bias", {"5": -101}),
    ("logit_bias", {"5": "1"}),
    ("logit_bias", {"five": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"05": 1}),
    ("logit_bias", {"\u0665": 1}),
    ("logit_bias", {"320": 1}),
    ("logit_bias", {"9" * 40: 1}),
    ("logit_bias", {str(token): 1 for token in range(1025)}),
    ("logit_bias", [1]),
]
# What only one of the routes has, or has otherwise.
REFUSED_BY_ONE: list[tuple[str, str, Any]] = [
    (CHAT, "best_of", 2),
    (CHAT, "echo", True),
    (CHAT, "logprobs", 1),
    (CHAT, "top_logprobs", 21),
    (CHAT, "top_logprobs", 5),  # without logprobs
    (TEXT, "logprobs", True),
    (TEXT, "logprobs", 21),
    (TEXT, "logprobs", -1),
    (TEXT, "top_logprobs", 5),
    (TEXT, "best_of", 0),
    (TEXT, "best_of", 129),
    (TEXT, "echo", 1),
    (TEXT, "max_tokens", 0),  # without echo
]


@pytest.mark.parametrize(("path", "field", "value"), REFUSED_BY_ONE, ids=str)
def test_what_one_route_does_not_take_is_refused_by_name(
    client: TestClient, path: str, field: str, value: object
) -> None:
    answer = post(client, path, {**BODIES[path], field: value})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


COMBINATIONS: list[tuple[str, dict[str, Any], str]] = [
    (TEXT, {"n": 3, "best_of": 2}, "best_of"),
    (TEXT, {"n": 1, "best_of": 2, "stream": True}, "best_of"),
    (TEXT, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    (CHAT, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    (TEXT, {"n": 65}, "n"),  # more than the server runs at once
    (CHAT, {"n": 65}, "n"),
    (TEXT, {"best_of": 65}, "best_of"),
    (TEXT, {"n": 33, "prompt": ["a", "b"]}, "n"),
    (TEXT, {"min_tokens": 3, "max_tokens": 2, "echo": True}, "min_tokens"),
]


@pytest.mark.parametrize(("path", "more", "param"), COMBINATIONS, ids=str)
def test_fields_that_do_not_go_together_are_refused_by_name(
    client: TestClient, path: str, more: dict[str, Any], param: str
) -> None:
    answer = post(client, path, {**BODIES[path], **more})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["message"].startswith(f"{param}: ")


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("field", list(NOT_BUILT))
def test_what_is_not_built_is_refused_by_name(client: TestClient, path: str, field: str) -> None:
    answer = post(client, path, {**BODIES[path], field: NOT_BUILT[field]})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


@pytest.mark.safety("security 10")
@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE, ids=lambda value: str(value)[:20])
def test_a_value_out_of_range_is_refused_by_name(
    client: TestClient, path: str, field: str, value: object
) -> None:
    answer = post(client, path, {**BODIES[path], field: value})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].split(".")[0] == field
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_all_reasons_come_at_once(client: TestClient, path: str) -> None:
    wrong = {"temperature": 9, "top_p": 2, "seed": "x", "n": 0, "adapters": [{"weight": 1}]}
    message = post(client, path, {**BODIES[path], **wrong}).json()["error"]["message"]
    for field in ("temperature", "top_p", "seed", "n", "adapters.0.name"):
        assert f"{field}: " in message


@pytest.mark.parametrize("value", [0, 1e-7, 1e-40, 1e-300, 5e-324, 2])
@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_the_smallest_numbers_do_not_hurt_the_engine(client: TestClient, field: str, value: float) -> None:
    if field == "top_p" and value in (0, 2):
        return
    body = {**BODIES[TEXT], "temperature": 1, "seed": 1, field: value}
    assert post(client, TEXT, body).status_code == 200
    native = {"inputs": "Hello", "parameters": {"max_new_tokens": 2, field: value}}
    assert post(client, "/generate", native).status_code == 200
    assert client.get("/health/live").status_code == 200


def test_a_tiny_temperature_is_greedy_and_a_tiny_top_p_keeps_one_token(client: TestClient) -> None:
    body = {**BODIES[TEXT], "max_tokens": 8, "ignore_eos": True}
    answers = [
        post(client, TEXT, {**body, **sampling, "seed": 3}).json()["choices"]
        for sampling in ({"temperature": 0}, {"temperature": 1e-300}, {"top_p": 1e-300})
    ]
    assert answers[0] == answers[1] == answers[2]


def test_the_largest_top_k_is_every_token(client: TestClient) -> None:
    body = {**BODIES[TEXT], "seed": 1}
    assert (
        post(client, TEXT, {**body, "top_k": 2**31 - 1}).json()["choices"]
        == (post(client, TEXT, body).json()["choices"])
    )


PROMPTS = [[], [[]], [["a"]], "", [""], [1, "a"], [[1], "a"], [True], [1.0], {}, 5, [-1], [320], [[1], [-1]]]


@pytest.mark.parametrize("prompt", [*PROMPTS, [10**30], ["a"] * 65], ids=lambda value: str(value)[:20])
def test_a_prompt_in_no_known_form_is_one_reason(client: TestClient, prompt: object) -> None:
    answer = post(client, TEXT, {**BODIES[TEXT], "prompt": prompt})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "prompt"
    assert ";" not in answer.json()["error"]["message"].removeprefix("prompt: ")


MESSAGES: list[tuple[Any, str]] = [
    ([], "messages"),
    ("Hello", "messages"),
    ([{"role": "user"}], "messages.0.content"),
    ([{"role": "robot", "content": "a"}], "messages.0.role"),
    ([{"role": "tool", "content": "a", "tool_call_id": "x"}], "messages.0.role"),
    ([{"role": "user", "content": {"a": 1}}], "messages.0.content"),
    ([{"role": "user", "content": ["a"]}], "messages.0.content.0"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages.0.content.0.type"),
    ([*USER, {"role": "assistant", "content": "a", "tool_calls": [{}]}], "messages.1.tool_calls"),
    (USER * 1025, "messages"),
]


@pytest.mark.parametrize(("messages", "param"), MESSAGES, ids=lambda value: str(value)[:40])
def test_messages_that_cannot_be_read_are_refused_by_place(
    client: TestClient, messages: object, param: str
) -> None:
    answer = post(client, CHAT, {**BODIES[CHAT], "messages": messages})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_two_bounds_that_differ_are_refused(client: TestClient) -> None:
    body = {**BODIES[CHAT], "max_tokens": 2}
    assert post(client, CHAT, {**body, "max_completion_tokens": 2}).status_code == 200
    answer = post(client, CHAT, {**body, "max_completion_tokens": 3})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_completion_tokens")


def test_the_newer_bound_alone_bounds(client: TestClient) -> None:
    body = {"model": BASE, "messages": USER, "max_completion_tokens": 3, "ignore_eos": True}
    assert post(client, CHAT, body).json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("tokens", [257, 2**31, 10**30])
def test_over_the_context_is_its_own_code(client: TestClient, path: str, tokens: int) -> None:
    answer = post(client, path, {**BODIES[path], "max_tokens": tokens})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert answer.json()["error"]["param"] == ("messages" if path == CHAT else "prompt")


def test_exactly_the_context_is_served(client: TestClient) -> None:
    body = {"model": BASE, "prompt": [5] * 250, "max_tokens": 6, "ignore_eos": True}
    assert post(client, TEXT, body).json()["usage"]["total_tokens"] == 256
    answer = post(client, TEXT, {**body, "max_tokens": 7})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("kind", [ChatBody, CompletionBody, GenerateBody, Parameters])
def test_no_field_is_both_built_and_idle(kind: type[Body]) -> None:
    assert not kind.NO_EFFECT & kind.model_fields.keys()
    assert not kind.NO_EFFECT & kind.NEUTRAL.keys()


@pytest.mark.parametrize("field", sorted(CompletionBody.NEUTRAL))
def test_neutral_values_are_neutral_by_their_json_type(field: str) -> None:
    for value in CompletionBody.NEUTRAL[field]:
        CompletionBody.parse({"model": "m", "prompt": "p", field: value})
        if isinstance(value, bool | int) and value in (0, 1):
            other = int(value) if isinstance(value, bool) else bool(value)
            if field in CompletionBody.model_fields:
                continue  # there the other may have a meaning
            with pytest.raises(RequestRefused):
                CompletionBody.parse({"model": "m", "prompt": "p", field: other})
