"""What is told of the tokens' likelihood, against a plain forward of transformers, in every route's shape."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from lorikeet_server.api.logprobs import TextLogprobs
from lorikeet_server.engine.request import Token
from lorikeet_server.engine.tokenizer import Tokenizer
from tests.server.world import BASE, Server, World, events_of, post
from tests.tiny import blended_model

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
PROMPT = "Where is my parcel? \u00e9\u20ac"
CLOSE = 1e-4
DRAWN: dict[str, Any] = {"temperature": 1.3, "seed": 5, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def text(shared: tuple[Server, TestClient]) -> Tokenizer:
    made = shared[0].services.text
    assert isinstance(made, Tokenizer)
    return made


@torch.no_grad()
def reference(world: World, tokens: list[int], mix: dict[str, float] | None = None) -> torch.Tensor:
    """log-probabilities [len(tokens), V] by a plain forward of the base with the mix merged in."""
    model = blended_model(world.base, {world.adapters[name]: weight for name, weight in (mix or {}).items()})
    return torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)


def ask(client: TestClient, path: str, **body: Any) -> Any:
    content = {"messages": [{"role": "user", "content": PROMPT}]} if path == CHAT else {"prompt": PROMPT}
    answer = post(client, path, {"model": BASE, **content, **DRAWN, "return_token_ids": True, **body})
    assert answer.status_code == 200, answer.text
    return events_of(answer.text) if body.get("stream") else answer.json()


def test_chat_logprobs_are_the_models_own(client: TestClient, world: World, text: Tokenizer) -> None:
    (choice,) = ask(client, CHAT, logprobs=True, top_logprobs=4)["choices"]
    prompt, tokens = choice["prompt_token_ids"], choice["token_ids"]
    expected = reference(world, [*prompt, *tokens])[len(prompt) - 1 :]
    content = choice["logprobs"]["content"]
    assert len(content) == len(tokens)
    for row, token, told in zip(expected, tokens, content, strict=False):
        assert told["logprob"] == pytest.approx(float(row[token]), abs=CLOSE)
        assert bytes(told["bytes"]) == text.token_bytes(token)
        values, ids = row.topk(4)
        assert [each["logprob"] for each in told["top_logprobs"]] == pytest.approx(values.tolist(), abs=CLOSE)
        assert [bytes(each["bytes"]) for each in told["top_logprobs"]] == [
            text.token_bytes(token) for token in ids.tolist()
        ]
    assert choice["logprobs"]["refusal"] is None


def test_chat_logprobs_without_others(client: TestClient) -> None:
    (choice,) = ask(client, CHAT, logprobs=True)["choices"]
    assert all(each["top_logprobs"] == [] for each in choice["logprobs"]["content"])
    assert ask(client, CHAT)["choices"][0]["logprobs"] is None


def test_completion_logprobs_are_the_models_own(client: TestClient, world: World) -> None:
    mix = {"formal": 0.7, "friendly": 0.3}
    (choice,) = ask(client, TEXT, model="formal:0.7+friendly:0.3", logprobs=3)["choices"]
    prompt, tokens = choice["prompt_token_ids"], choice["token_ids"]
    expected = reference(world, [*prompt, *tokens], mix)[len(prompt) - 1 :]
    told = choice["logprobs"]
    assert {len(values) for values in told.values()} == {len(tokens)}
    for place, token in enumerate(tokens):
        own = float(expected[place, token])
        assert told["token_logprobs"][place] == pytest.approx(own, abs=CLOSE)
        top = told["top_logprobs"][place]
        assert top[told["tokens"][place]] == told["token_logprobs"][place], "the token itself is among them"
        best = expected[place].topk(3).values.tolist()
        assert sorted(top.values(), reverse=True)[:3] == pytest.approx(best, abs=CLOSE)
        assert len(top) == 3 + (own < best[-1] - CLOSE)


@pytest.mark.parametrize("max_tokens", [0, 5])
@pytest.mark.parametrize("count", [0, 2])
def test_an_echoed_prompt_is_scored(client: TestClient, world: World, max_tokens: int, count: int) -> None:
    """As evaluation harnesses ask for it; the prompt takes several chunks."""
    long = PROMPT * 3
    (choice,) = ask(client, TEXT, prompt=long, echo=True, max_tokens=max_tokens, logprobs=count)["choices"]
    tokens = [*choice["prompt_token_ids"], *choice["token_ids"]]
    expected, told = reference(world, tokens), choice["logprobs"]
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    for place, token in enumerate(tokens[1:]):
        assert told["token_logprobs"][place + 1] == pytest.approx(float(expected[place, token]), abs=CLOSE)
        top = told["top_logprobs"][place + 1]
        if count:
            assert max(top.values()) == pytest.approx(float(expected[place].max()), abs=CLOSE)
        assert len(top) in (count, count + 1) if count else len(top) == 1
    assert {len(values) for values in told.values()} == {len(tokens)}
    assert choice["text"].startswith(long)


def test_offsets_are_places_in_the_text(client: TestClient, text: Tokenizer) -> None:
    (choice,) = ask(client, TEXT, echo=True, logprobs=0, seed=7)["choices"]
    told, said = choice["logprobs"], choice["text"]
    for at, token in zip(told["text_offset"], told["tokens"], strict=True):
        if not token.startswith(("bytes:", "token_id:", "<|")):
            assert said[at:].startswith(token)
    assert all(one <= other for one, other in pairwise(told["text_offset"]))
    assert told["text_offset"][len(choice["prompt_token_ids"])] == len(PROMPT)
    e_acute = told["tokens"].index("bytes:\\xc3")
    assert told["tokens"][e_acute + 1] == "bytes:\\xa9"
    assert told["text_offset"][e_acute] == PROMPT.index("\u00e9")


def test_no_two_tokens_look_alike(text: Tokenizer) -> None:
    """A part of a character says which bytes it is, so that a dictionary keeps them apart."""
    every = [Token("r", token, token, -1.0, "") for token in range(320)]
    spelled = TextLogprobs(text).spell(every)["tokens"]
    assert len(set(spelled)) == 320


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (CHAT, {"logprobs": True, "top_logprobs": 2}),
        (TEXT, {"logprobs": 2}),
        (TEXT, {"logprobs": 2, "echo": True}),
        (TEXT, {"logprobs": 2, "echo": True, "max_tokens": 0}),
    ],
    ids=str,
)
def test_what_a_stream_tells_piece_by_piece_is_what_the_whole_answer_tells(
    client: TestClient, path: str, asked: dict[str, Any]
) -> None:
    prompt: dict[str, Any] = {"prompt": [PROMPT, "Hello"]} if path == TEXT else {}
    whole = ask(client, path, **asked, **prompt, n=2)
    chunks = ask(client, path, **asked, **prompt, n=2, stream=True)[:-1]
    for choice in whole["choices"]:
        own = [each for chunk in chunks for each in chunk["choices"] if each["index"] == choice["index"]]
        pieces = [each["logprobs"] for each in own if each["logprobs"]]
        keys = ("content",) if path == CHAT else tuple(choice["logprobs"])
        for key in keys:
            said = [value for piece in pieces for value in piece[key]]
            assert rounded(said) == rounded(choice["logprobs"][key])


def rounded(told: Any) -> Any:
    """Two runs in other company differ in their last bits."""
    if isinstance(told, list):
        return [rounded(each) for each in told]
    if isinstance(told, dict):
        return {key: rounded(value) for key, value in told.items()}
    return pytest.approx(told, abs=CLOSE) if isinstance(told, float) else told


def test_prompt_logprobs_have_vllms_shape(client: TestClient, world: World, text: Tokenizer) -> None:
    (choice,) = ask(client, TEXT, prompt_logprobs=2)["choices"]
    chat = ask(client, CHAT, prompt_logprobs=2)
    for tokens, told in (
        (choice["prompt_token_ids"], choice["prompt_logprobs"]),
        (chat["prompt_token_ids"], chat["prompt_logprobs"]),
    ):
        expected = reference(world, tokens)
        assert told[0] is None
        assert len(told) == len(tokens)
        for place, token in enumerate(tokens[1:]):
            row, entry = expected[place], told[place + 1]
            assert entry[str(token)] == {
                "logprob": pytest.approx(float(row[token]), abs=CLOSE),
                "rank": 1 + int((row > row[token]).sum()),
                "decoded_token": text.token_text(token),
            }
            ranked = {each["rank"]: int(key) for key, each in entry.items()}
            assert [ranked[1], ranked[2]] == row.topk(2).indices.tolist()


def test_an_echo_tells_no_more_of_the_prompt_than_of_the_answer(client: TestClient) -> None:
    (choice,) = ask(client, TEXT, echo=True, logprobs=1, prompt_logprobs=5)["choices"]
    assert all(len(top) <= 2 for top in choice["logprobs"]["top_logprobs"][1:])
    assert all(len(each) >= 5 for each in choice["prompt_logprobs"][1:])


def test_native_details_tell_the_prompt_and_the_likely_tokens(client: TestClient, world: World) -> None:
    parameters = {
        "max_new_tokens": 6,
        "ignore_eos_token": True,
        "decoder_input_details": True,
        "top_n_tokens": 3,
    }
    answer = post(client, "/generate", {"inputs": PROMPT, "parameters": parameters})
    details = answer.json()["details"]
    prompt = [each["id"] for each in details["prefill"]]
    tokens = [each["id"] for each in details["tokens"]]
    expected = reference(world, [*prompt, *tokens])
    assert set(details["prefill"][0]) == {"id", "text", "logprob"}
    assert details["prefill"][0]["logprob"] is None
    logprobs = [each["logprob"] for each in (*details["prefill"], *details["tokens"])][1:]
    own = [float(expected[place, token]) for place, token in enumerate([*prompt, *tokens][1:])]
    assert logprobs == pytest.approx(own, abs=CLOSE)
    assert len(details["top_tokens"]) == 6
    for place, top in enumerate(details["top_tokens"], len(prompt) - 1):
        assert [each["id"] for each in top] == expected[place].topk(3).indices.tolist()
        assert set(top[0]) == {"id", "text", "logprob", "special", "skipped"}
    del parameters["decoder_input_details"]
    events = events_of(post(client, "/generate_stream", {"inputs": PROMPT, "parameters": parameters}).text)
    for event, top in zip(events, details["top_tokens"], strict=True):
        assert [each["id"] for each in event["top_tokens"]] == [each["id"] for each in top]
        values = [each["logprob"] for each in top]
        assert [each["logprob"] for each in event["top_tokens"]] == pytest.approx(values, abs=CLOSE)
