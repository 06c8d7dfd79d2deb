"""POST /generate and /generate_stream: LoRAX's and TGI's fields, statuses and streams."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.world import BASE, ENDING_PROMPT, Server, World, events_of, oracle, post

PROMPT = "Where is my parcel?"
FIXED: dict[str, Any] = {"max_new_tokens": 16, "ignore_eos_token": True}


def generate(client: TestClient, inputs: str = PROMPT, **parameters: Any) -> Any:
    answer = post(client, "/generate", {"inputs": inputs, "parameters": {**FIXED, **parameters}})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(client: TestClient, inputs: str = PROMPT, **parameters: Any) -> list[Any]:
    answer = post(client, "/generate_stream", {"inputs": inputs, "parameters": {**FIXED, **parameters}})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


@pytest.mark.parametrize("mix", [{}, {"formal": 1.0}, {"formal": 0.5, "triage": -1.0}], ids=str)
def test_tokens_equal_generate(
    shared: tuple[Server, TestClient], world: World, mix: dict[str, float]
) -> None:
    server, client = shared
    prompt = list(server.services.text.encode(PROMPT, special=True))
    name = "+".join(f"{adapter}:{weight}" for adapter, weight in mix.items())
    expected = oracle(world, mix, prompt, 16)
    details = generate(client, adapter_id=name, details=True)["details"]
    assert [token["id"] for token in details["tokens"]] == expected
    assert [event["token"]["id"] for event in stream(client, adapter_id=name)] == expected


def test_details_only_when_asked_for(client: TestClient) -> None:
    assert set(generate(client)) == {"generated_text"}
    details = generate(client, details=True)["details"]
    assert details["finish_reason"] == "length"
    assert details["generated_tokens"] == len(details["tokens"]) == 16
    assert details["prompt_tokens"] == len(PROMPT)
    assert details["seed"] is None
    assert details["prefill"] == []
    for token in details["tokens"]:
        assert set(token) == {"id", "text", "logprob", "special", "skipped"}
        assert token["logprob"] <= 0


def test_a_seed_is_told_and_repeats_the_answer(client: TestClient) -> None:
    first = generate(client, do_sample=True, seed=3, temperature=1.5, details=True)
    assert first["details"]["seed"] == 3
    assert generate(client, do_sample=True, seed=3, temperature=1.5, details=True) == first
    drawn = generate(client, do_sample=True, temperature=1.5, details=True)
    again = generate(client, do_sample=True, temperature=1.5, details=True, seed=drawn["details"]["seed"])
    assert again == drawn


@pytest.mark.parametrize("asking", [{"temperature": 1.5}, {"top_k": 50}, {"top_p": 0.95}], ids=str)
def test_a_sampling_parameter_alone_samples(client: TestClient, asking: dict[str, Any]) -> None:
    details = generate(client, details=True, seed=5, **asking)["details"]
    assert details["seed"] == 5


def test_finish_reasons_are_tgis(client: TestClient) -> None:
    ended = generate(client, ENDING_PROMPT, ignore_eos_token=False, details=True)
    assert ended["details"]["finish_reason"] == "eos_token"
    text = generate(client)["generated_text"]
    stopped = generate(client, stop=[text[3:5]], details=True)
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert stopped["generated_text"] == text[: text.index(text[3:5])]


def test_a_stream_has_no_done_and_its_last_event_has_the_whole_text(client: TestClient) -> None:
    *others, last = stream(client)
    assert [event["index"] for event in [*others, last]] == list(range(1, 17))
    assert all(event["generated_text"] is None and event["details"] is None for event in others)
    assert last["generated_text"] == generate(client)["generated_text"]
    assert last["details"]["finish_reason"] == "length"
    assert last["details"]["generated_tokens"] == 16
    assert last["details"]["input_length"] == len(PROMPT)


def test_the_prompt_comes_first_when_asked_for(client: TestClient) -> None:
    text = generate(client)["generated_text"]
    assert generate(client, return_full_text=True)["generated_text"] == PROMPT + text
    assert stream(client, return_full_text=True)[-1]["generated_text"] == PROMPT + text


def test_timing_headers(shared: tuple[Server, TestClient]) -> None:
    server, client = shared
    answer = post(client, "/generate", {"inputs": PROMPT, "parameters": {**FIXED, "adapter_id": "formal"}})
    headers = answer.headers
    for name in ("x-total-time", "x-queue-time", "x-time-to-first-token", "x-time-per-token"):
        assert int(headers[name]) >= 0
    assert (
        int(headers["x-queue-time"]) <= int(headers["x-time-to-first-token"]) <= int(headers["x-total-time"])
    )
    assert headers["x-prompt-tokens"] == str(len(PROMPT))
    assert headers["x-generated-tokens"] == "16"
    assert headers["x-total-tokens"] == str(len(PROMPT) + 16)
    assert headers["x-adapter-id"] == "formal"
    assert headers["x-lorikeet-generation"] == server.registry.record("formal").generation


def test_a_mix_comes_back_as_a_header_that_can_be_sent(client: TestClient) -> None:
    """Nothing but ASCII stands in a mix, and no server sends a header that begins or ends with a space."""
    for mix, status in (
        (" formal + friendly ", 200),
        ("formal\n+friendly", 404),
        ("formal\u3000+friendly", 404),
    ):
        parameters = {**FIXED, "adapter_id": mix}
        answer = post(client, "/generate", {"inputs": PROMPT, "parameters": parameters})
        assert answer.status_code == status, answer.text
        assert answer.headers.get("x-adapter-id") in ("formal + friendly", None)


def test_the_base_has_no_adapter_header(client: TestClient) -> None:
    assert "x-adapter-id" not in post(client, "/generate", {"inputs": PROMPT, "parameters": FIXED}).headers


def test_parameters_may_be_absent(client: TestClient) -> None:
    assert post(client, "/generate", {"inputs": ENDING_PROMPT}).status_code == 200


def test_neutral_and_idle_parameters_change_nothing(client: TestClient) -> None:
    idle: dict[str, Any] = {
        "best_of": 1,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "typical_p": 1.0,
        "watermark": False,
        "decoder_input_details": False,
        "top_n_tokens": 0,
        "return_k_alternatives": 0,
        "adapter_id": "",
        "truncate": None,
        "grammar": None,
        "response_format": None,
        "api_token": "secret",
        "adapter_source": "hub",
        "temperature": 1.0,
    }
    assert generate(client, **idle) == generate(client)


def test_best_of_tells_the_likeliest_and_in_its_details_the_others(client: TestClient) -> None:
    drawn: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "seed": 3, "details": True}
    answer = generate(client, best_of=4, **drawn)
    details = answer["details"]
    others = details["best_of_sequences"]
    assert len(others) == 3
    means = [
        sum(token["logprob"] for token in each["tokens"]) / len(each["tokens"]) for each in (details, *others)
    ]
    assert means == sorted(means, reverse=True)
    assert len({answer["generated_text"], *(each["generated_text"] for each in others)}) == 4
    every = {details["seed"], *(each["seed"] for each in others)}
    assert len(every) == 4
    assert 3 in every
    # The seed of each is told, and asked for alone it gives the same answer.
    again = generate(client, **{**drawn, "seed": others[0]["seed"]})
    assert again["generated_text"] == others[0]["generated_text"]
    assert "details" not in generate(client, best_of=2, **{**drawn, "details": False})


@pytest.mark.parametrize(
    "asking",
    [
        {"repetition_penalty": 3.0},
        {"frequency_penalty": 2.0, "max_new_tokens": 40},
        {"presence_penalty": 2.0, "max_new_tokens": 40},
    ],
    ids=str,
)
def test_a_penalty_changes_what_is_said(client: TestClient, asking: dict[str, Any]) -> None:
    plain = {key: value for key, value in asking.items() if key == "max_new_tokens"}
    assert generate(client, **asking) != generate(client, **plain)


def test_typical_p_samples(client: TestClient) -> None:
    assert generate(client, typical_p=0.5, seed=5, details=True)["details"]["seed"] == 5


@pytest.mark.parametrize(
    "asking", [{"best_of": 2, "do_sample": True}, {"decoder_input_details": True}], ids=str
)
def test_what_a_stream_cannot_tell_is_refused_there(client: TestClient, asking: dict[str, Any]) -> None:
    answer = post(client, "/generate_stream", {"inputs": "a", "parameters": asking})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"parameters.{next(iter(asking))}: ")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "inputs"),
    ({"inputs": ""}, "inputs"),
    ({"inputs": 3}, "inputs"),
    ({"inputs": "a", "stream": "yes"}, "stream"),
    *(
        ({"inputs": "a", "parameters": {name: value}}, f"parameters.{name}")
        for name, value in {
            "best_of": 2,  # greedy
            "repetition_penalty": 0,
            "frequency_penalty": 2.5,
            "presence_penalty": -2.5,
            "typical_p": 0,
            "watermark": True,
            "decoder_input_details": 1,
            "top_n_tokens": 21,
            "return_k_alternatives": 3,
            "truncate": 5,
            "grammar": {"type": "json", "value": {}},
            "response_format": {"type": "json_object"},
            "temperature": -0.1,
            "top_k": 0,
            "top_p": 0,
            "max_new_tokens": 0,
            "seed": -1,
            "stop": ["a"] * 17,
            "adapter_id": 3,
            "details": "yes",
            "no_such_field": 1,
        }.items()
    ),
]


@pytest.mark.parametrize(("path", "stream"), [("/generate", True), ("/generate_stream", False)])
def test_a_route_that_does_one_thing_takes_stream_only_where_it_says_so(
    client: TestClient, path: str, stream: bool
) -> None:
    body = {"inputs": PROMPT, "parameters": FIXED}
    assert post(client, path, {**body, "stream": not stream}).status_code == 200
    answer = post(client, path, {**body, "stream": stream})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("stream: ")


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
@pytest.mark.parametrize(("body", "param"), REFUSED, ids=str)
def test_what_is_wrong_is_422_by_name(
    client: TestClient, path: str, body: dict[str, Any], param: str
) -> None:
    answer = post(client, path, body)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error", "error_type"}
    assert answer.json()["error_type"] == "validation"
    assert answer.json()["error"].startswith(f"{param}: ")


def test_over_the_context_is_422(client: TestClient) -> None:
    answer = post(client, "/generate", {"inputs": "a" * 250, "parameters": {"max_new_tokens": 10}})
    assert answer.status_code == 422
    assert "256" in answer.json()["error"]


def test_an_unknown_adapter_is_404(client: TestClient) -> None:
    answer = post(client, "/generate_stream", {"inputs": "a", "parameters": {"adapter_id": "nobody"}})
    assert answer.status_code == 404
    assert set(answer.json()) == {"error", "error_type"}


def test_a_wrong_method_is_refused_in_the_native_shape(client: TestClient) -> None:
    answer = client.get("/generate")
    assert answer.status_code == 405
    assert set(answer.json()) == {"error", "error_type"}


def test_the_native_route_serves_the_same_text_as_the_openai_route(client: TestClient) -> None:
    body = {"model": BASE, "prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    openai = post(client, "/v1/completions", body).json()["choices"][0]["text"]
    assert generate(client)["generated_text"] == openai
