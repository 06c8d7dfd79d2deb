"""Requests as clients of LoRAX and TGI send them whole, and every object of the answers key by key.

Recorded from LoRAX's router and Python client and from TGI's router: which keys an object has always, and
of what type. What both know is one object here, so it has the keys of both.
"""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.world import events_of, post

PROMPT = "Where is my parcel?"
TEXT = (str,)
COUNT = (int,)
NUMBER = (float, int)
MAYBE = type(None)

# LoRAX's clients cannot read a token without `skipped`; TGI has the four others.
TOKEN: dict[str, Any] = {"id": COUNT, "text": TEXT, "logprob": NUMBER, "special": (bool,), "skipped": (bool,)}
PREFILL: dict[str, Any] = {"id": COUNT, "text": TEXT, "logprob": (*NUMBER, MAYBE)}
END: dict[str, Any] = {"finish_reason": TEXT, "generated_tokens": COUNT, "seed": (int, MAYBE)}
SEQUENCE: dict[str, Any] = {**END, "prefill": [PREFILL], "tokens": [TOKEN]}
LIKELY: dict[str, Any] = {"top_tokens": [[TOKEN]]}  # TGI's, only where they are asked for
DETAILS: dict[str, Any] = {
    **SEQUENCE,
    "prompt_tokens": COUNT,
    "skipped_tokens": COUNT,
}  # the last two LoRAX's
BEST: dict[str, Any] = {"generated_text": TEXT, **SEQUENCE}
# `prompt_tokens` is LoRAX's word, `input_length` TGI's.
STREAM_DETAILS: dict[str, Any] = {**END, "prompt_tokens": COUNT, "input_length": COUNT}
EVENT: dict[str, Any] = {"index": COUNT, "token": TOKEN, "generated_text": (MAYBE,), "details": (MAYBE,)}
LAST: dict[str, Any] = {**EVENT, "generated_text": TEXT, "details": STREAM_DETAILS}
ERROR: dict[str, Any] = {"error": TEXT, "error_type": TEXT}

# LoRAX's client sends every field it has, most of them null.
LORAX: dict[str, Any] = {
    "adapter_id": None,
    "adapter_source": None,
    "merged_adapters": None,
    "api_token": None,
    "do_sample": False,
    "max_new_tokens": 20,
    "ignore_eos_token": False,
    "repetition_penalty": None,
    "return_full_text": False,
    "stop": [],
    "seed": None,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "truncate": None,
    "typical_p": None,
    "best_of": None,
    "watermark": False,
    "details": True,
    "decoder_input_details": False,
    "return_k_alternatives": None,
    "response_format": None,
}
# TGI's has these, and none of LoRAX's own.
TGI: dict[str, Any] = {
    "adapter_id": None,
    "do_sample": False,
    "max_new_tokens": 20,
    "repetition_penalty": None,
    "frequency_penalty": None,
    "return_full_text": False,
    "stop": [],
    "seed": None,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "truncate": None,
    "typical_p": None,
    "best_of": None,
    "watermark": False,
    "details": True,
    "decoder_input_details": False,
    "top_n_tokens": None,
    "grammar": None,
}


def check(value: Any, shape: Any, place: str = "answer") -> None:
    """`value` has exactly the keys of `shape`, and their types; a list has one shape for all its items."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), place
        assert value.keys() == shape.keys(), (place, value.keys() ^ shape.keys())
        for key, inner in shape.items():
            check(value[key], inner, f"{place}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), place
        for number, item in enumerate(value):
            check(item, shape[0], f"{place}[{number}]")
    else:
        assert type(value) in shape, (place, value)


def ask(client: TestClient, path: str, parameters: dict[str, Any], **more: Any) -> Any:
    answer = post(client, path, {"inputs": PROMPT, "parameters": parameters, **more})
    assert answer.status_code == 200, answer.text
    return events_of(answer.text) if "event-stream" in answer.headers["content-type"] else answer.json()


@pytest.mark.parametrize("path", ["/generate", "/"])
@pytest.mark.parametrize("body", [LORAX, TGI], ids=["lorax", "tgi"])
@pytest.mark.parametrize("top", [0, 2])
@pytest.mark.parametrize("prefill", [False, True])
def test_a_whole_answer(client: TestClient, path: str, body: dict[str, Any], top: int, prefill: bool) -> None:
    more = {"top_n_tokens": top, "decoder_input_details": prefill, "adapter_id": "formal"}
    answer = ask(client, path, {**body, **more})
    if path == "/":
        assert isinstance(answer, list)
        (answer,) = answer
    likely = LIKELY if top else {}
    check(answer, {"generated_text": TEXT, "details": {**DETAILS, **likely}})
    details = answer["details"]
    assert len(details["prefill"]) == (details["prompt_tokens"] if prefill else 0)
    assert [each["logprob"] is None for each in details["prefill"]] == (
        [True] + [False] * (details["prompt_tokens"] - 1) if prefill else []
    )
    assert [len(each) for each in details.get("top_tokens", [])] == [top] * (20 if top else 0)


def test_a_whole_answer_without_details(client: TestClient) -> None:
    assert ask(client, "/generate", {**LORAX, "details": False}).keys() == {"generated_text"}
    (answer,) = ask(client, "/", {**TGI, "details": False})
    assert answer.keys() == {"generated_text"}


@pytest.mark.parametrize("top", [0, 2])
def test_the_best_of_several(client: TestClient, top: int) -> None:
    drawn = {"do_sample": True, "temperature": 1.5, "best_of": 3, "top_n_tokens": top}
    answer = ask(client, "/generate", {**TGI, **drawn})
    likely = LIKELY if top else {}
    best = {**BEST, **likely}
    check(answer, {"generated_text": TEXT, "details": {**DETAILS, **likely, "best_of_sequences": [best]}})
    assert len(answer["details"]["best_of_sequences"]) == 2


@pytest.mark.parametrize("body", [LORAX, TGI], ids=["lorax", "tgi"])
@pytest.mark.parametrize("path", ["/generate_stream", "/"])
@pytest.mark.parametrize("top", [0, 2])
def test_a_stream(client: TestClient, path: str, body: dict[str, Any], top: int) -> None:
    *events, last = ask(client, path, {**body, "top_n_tokens": top}, stream=True)
    likely = {"top_tokens": [TOKEN]} if top else {}
    for event in events:
        check(event, {**EVENT, **likely})
    check(last, {**LAST, **likely})
    assert [event["index"] for event in (*events, last)] == list(range(1, 21))


@pytest.mark.parametrize("source", ["hub", "local", "s3", "pbase"])
def test_where_a_registered_adapter_would_come_from_decides_nothing(client: TestClient, source: str) -> None:
    more = {"adapter_id": "formal", "adapter_source": source, "api_token": "secret"}
    alone = ask(client, "/generate", {**LORAX, "adapter_id": "formal"})["generated_text"]
    assert ask(client, "/generate", {**LORAX, **more})["generated_text"] == alone


@pytest.mark.parametrize(
    "merged",
    [
        {"merge_strategy": None, "density": 0.0, "majority_sign_method": None},
        {"merge_strategy": "linear", "density": 1.0, "majority_sign_method": "total"},
        {"merge_strategy": "ties", "density": 0.5, "majority_sign_method": "total"},
        {"merge_strategy": "dare_linear", "density": 0.5, "majority_sign_method": None},
        {"merge_strategy": "dare_ties", "density": 0.5, "majority_sign_method": "frequency"},
    ],
    ids=lambda merged: str(merged["merge_strategy"]),
)
def test_merged_adapters_as_the_client_sends_them(client: TestClient, merged: dict[str, Any]) -> None:
    """All five fields, as LoRAX's client does; ties and DARE merge what is of one rank, here one alone."""
    linear = merged["merge_strategy"] in (None, "linear")
    mix = {"formal": 0.7, "friendly": 0.3} if linear else {"formal": 0.7}
    body = {**LORAX, "merged_adapters": {"ids": list(mix), "weights": list(mix.values()), **merged}}
    check(ask(client, "/generate", body), {"generated_text": TEXT, "details": DETAILS})
    if linear:
        named = ask(client, "/generate", {**LORAX, "adapter_id": "formal:0.7+friendly:0.3"})
        assert ask(client, "/generate", body)["generated_text"] == named["generated_text"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"merged_adapters": {"ids": ["formal", "friendly"], "weights": [0.5]}},
            "merged_adapters: number of adapter IDs must match number of adapter weights",
        ),
        ({"merged_adapters": {"ids": [], "weights": []}}, "parameters.merged_adapters.ids: "),
        (
            {"adapter_id": "formal", "merged_adapters": {"ids": ["friendly"], "weights": [1.0]}},
            "parameters.adapter_id: `formal` and `merged_adapters` both say which mix is meant",
        ),
        ({"best_of": 2}, "parameters.best_of: needs sampling"),
        ({"merged_adapters": {"ids": ["a"], "merge_strategy": "slerp"}}, "parameters.merged_adapters.merge"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_what_a_router_would_refuse_is_a_422_of_its_shape(
    client: TestClient, path: str, parameters: dict[str, Any], message: str
) -> None:
    answer = post(client, path, {"inputs": PROMPT, "parameters": {**LORAX, **parameters}})
    assert answer.status_code == 422
    check(answer.json(), ERROR)
    assert answer.json()["error_type"] == "validation"
    assert answer.json()["error"].startswith(message)
