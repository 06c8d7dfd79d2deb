"""Token ids in vLLM's shape, equal to what the tokenizer itself says."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient
from transformers import AutoTokenizer

from tests.server.world import BASE, CONTEXT, World, post

PREFIXES = ["", "/v1"]


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Any:
    return AutoTokenizer.from_pretrained(world.base)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_text_becomes_tokens_and_text_again(client: TestClient, tokenizer: Any, prefix: str) -> None:
    text = "Where is my order, señor? 🦜"
    made = post(client, f"{prefix}/tokenize", {"model": BASE, "prompt": text}).json()
    expected = tokenizer(text)["input_ids"]
    assert made == {
        "count": len(expected),
        "max_model_len": CONTEXT,
        "tokens": expected,
        "token_strs": None,
    }
    back = post(client, f"{prefix}/detokenize", {"model": BASE, "tokens": expected})
    assert back.json() == {"prompt": text}


def test_the_spelling_of_each_token_on_request(client: TestClient, tokenizer: Any) -> None:
    made = post(client, "/tokenize", {"prompt": "a b", "return_token_strs": True}).json()
    assert made["token_strs"] == tokenizer.convert_ids_to_tokens(made["tokens"])


def test_special_tokens_are_spelled_out(client: TestClient, tokenizer: Any) -> None:
    special = tokenizer.all_special_ids[0]
    told = post(client, "/detokenize", {"tokens": [special]}).json()["prompt"]
    assert told == tokenizer.decode([special]) != ""


def test_messages_go_through_the_chat_template_as_in_a_chat(client: TestClient, tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    made = post(client, "/tokenize", {"model": "formal", "messages": messages}).json()
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert made["tokens"] == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    chat = post(client, "/v1/chat/completions", {"model": BASE, "messages": messages, "max_tokens": 1}).json()
    assert chat["usage"]["prompt_tokens"] == made["count"]


@pytest.mark.parametrize("model", [BASE, "formal", "formal:0.5+friendly:0.5", "", None])
def test_any_model_that_can_be_asked_has_the_bases_tokenizer(client: TestClient, model: str | None) -> None:
    assert post(client, "/tokenize", {"model": model, "prompt": "Hello"}).status_code == 200
    assert post(client, "/detokenize", {"model": model, "tokens": [65]}).status_code == 200


@pytest.mark.parametrize("model", ["nobody", "formal+nobody"])
def test_a_model_that_does_not_exist_is_a_404(client: TestClient, model: str) -> None:
    for path, body in (("/tokenize", {"prompt": "Hello"}), ("/detokenize", {"tokens": [1]})):
        answer = post(client, path, {"model": model, **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/tokenize", {}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "either"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        (
            "/tokenize",
            {"prompt": "a", "chat_template": "{{ x }}"},
            "chat_template: this field is not supported",
        ),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "a", "model": "a+"}, "empty term"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens.1"),
        ("/detokenize", {"tokens": [320]}, "vocabulary has 320"),
        ("/detokenize", {"tokens": [10**30]}, "vocabulary"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    client: TestClient, path: str, body: dict[str, Any], word: str
) -> None:
    answer = post(client, path, body)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


def test_nothing_is_no_tokens_and_no_tokens_are_nothing(client: TestClient) -> None:
    assert post(client, "/tokenize", {"prompt": ""}).json()["tokens"] == []
    assert post(client, "/detokenize", {"tokens": []}).json() == {"prompt": ""}
