"""OpenAI's own Python client against a real server, holding every answer to OpenAI's types."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, Field

from tests.server.loopback import SLASHED, Loopback

BASE = "demo"
ADAPTERS = ["acme/formal", "extract", "formal", "friendly", "triage"]
MESSAGE = "Order 99389. The chair arrived with a crack and a damaged part. Please reply soon. David"
MESSAGES: list[Any] = [{"role": "user", "content": MESSAGE}]
VAGUE: list[Any] = [{"role": "user", "content": "?"}]  # to which much can be said
GREEDY: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 12}
TEXT: dict[str, Any] = {"prompt": MESSAGE, "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def server(reached: Loopback) -> Loopback:
    return reached


def client_with(server: Loopback, key: str, **options: Any) -> openai.OpenAI:
    """An answer that is not of OpenAI's types raises APIResponseValidationError; nothing is sent twice."""
    options = {"_strict_response_validation": True, "max_retries": 0, **options}
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, timeout=60, **options)


@pytest.fixture(scope="module")
def client(server: Loopback) -> Iterator[openai.OpenAI]:
    with client_with(server, server.keys["operator"]) as made:
        yield made


def said(answer: ChatCompletion) -> str:
    (choice,) = answer.choices
    assert choice.message.content
    return choice.message.content


def heard(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("model", [BASE, *ADAPTERS, "formal:0.4+friendly:0.35"])
def test_a_chat_whole_and_streamed_is_the_same(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, **GREEDY)
    assert isinstance(whole, ChatCompletion)
    assert (whole.object, whole.model) == ("chat.completion", model)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.choices[0].message.role == "assistant"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model=model, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert heard(chunks) == said(whole)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    *others, last = chunks
    assert all(chunk.usage is None for chunk in others)
    assert (last.choices, last.usage) == ([], whole.usage)
    assert [chunk.choices[0].finish_reason for chunk in others if chunk.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]


def test_adapters_say_different_things(client: openai.OpenAI) -> None:
    answers = {name: said(client.chat.completions.create(model=name, **GREEDY)) for name in (BASE, *ADAPTERS)}
    assert answers[SLASHED] == answers["formal"]
    assert len(set(answers.values())) == len(answers) - 1


@pytest.mark.parametrize(
    "form",
    [
        {"adapters": [{"name": "formal", "weight": 0.4}, {"name": "friendly", "weight": 0.35}]},
        {"merged_adapters": {"ids": ["formal", "friendly"], "weights": [0.4, 0.35]}},
        {"lora": [{"id": "formal", "scale": 0.4}, {"id": "friendly", "scale": 0.35}]},
    ],
    ids=lambda form: next(iter(form)),
)
def test_a_blend_in_extra_body_is_the_blend_of_that_name(client: openai.OpenAI, form: dict[str, Any]) -> None:
    named = client.chat.completions.create(model="formal:0.4+friendly:0.35", **GREEDY)
    raw = client.chat.completions.with_raw_response.create(model=BASE, extra_body=form, **GREEDY)
    blended = raw.parse()
    assert said(blended) == said(named)
    assert blended.model_extra is not None
    mix = {term["generation"]: term["weight"] for term in blended.model_extra["lorikeet"]["mix"]}
    assert sorted(mix.values()) == [0.35, 0.4]
    assert set(raw.headers["x-lorikeet-generation"].split(",")) == mix.keys()
    assert blended._request_id == raw.headers["x-request-id"]


def test_a_text_whole_and_streamed_is_the_same(client: openai.OpenAI, server: Loopback) -> None:
    whole = client.completions.create(model="triage", **TEXT)
    assert isinstance(whole, Completion)
    assert whole.object == "text_completion"
    # In a stream OpenAI itself sends a null finish_reason until the last chunk, which its type leaves out.
    with client_with(server, server.keys["operator"], _strict_response_validation=False) as lenient:
        chunks = list(lenient.completions.create(model="triage", stream=True, **TEXT))
    reasons: list[Any] = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    for chunk in chunks:
        chunk.choices[0].finish_reason = "stop"
        Completion.model_validate(chunk.to_dict(), strict=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_several_prompts_answers_and_an_echo(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="formal", prompt=["Hello", MESSAGE], n=2, best_of=3, max_tokens=4, seed=5, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith(MESSAGE) for choice in answer.choices] == [False, False, True, True]
    ids = client.completions.create(model="formal", prompt=[[5, 6, 7]], max_tokens=2)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3


def test_likelihoods_of_a_chat(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "friendly", **GREEDY, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].logprobs is not None
    told = whole.choices[0].logprobs.content
    assert told is not None
    assert whole.usage is not None
    assert len(told) == whole.usage.completion_tokens
    for token in told:
        assert token.logprob <= 0
        assert token.token == token.top_logprobs[0].token  # greedy
        assert [each.logprob for each in token.top_logprobs] == sorted(
            (each.logprob for each in token.top_logprobs), reverse=True
        )
    spelled = b"".join(bytes(token.bytes or []) for token in told).decode()
    assert spelled.startswith(said(whole))
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = [
        token.token
        for chunk in chunks
        for choice in chunk.choices
        for token in (choice.logprobs.content or [] if choice.logprobs else [])
    ]
    assert streamed == [token.token for token in told]


def test_likelihoods_of_a_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="friendly", logprobs=2, **TEXT)
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == logprob == max(top.values())


@pytest.mark.parametrize("stream", [False, True])
def test_n_answers_of_one_seed_come_again(client: openai.OpenAI, stream: bool) -> None:
    def ask(seed: int) -> list[str]:
        asked: dict[str, Any] = {**GREEDY, "messages": VAGUE, "n": 3, "temperature": 2, "seed": seed}
        asked["model"] = BASE
        if not stream:
            answer = client.chat.completions.create(**asked)
            return [choice.message.content or "" for choice in answer.choices]
        texts = [""] * 3
        for chunk in client.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        return texts

    first = ask(7)
    assert len(set(first)) == 3
    assert ask(7) == first != ask(8)


@pytest.mark.parametrize("many", [False, True])
def test_a_stop_ends_the_text_before_it(client: openai.OpenAI, many: bool) -> None:
    whole = said(client.chat.completions.create(model="formal", **GREEDY))
    stop = whole[8:11]
    answer = client.chat.completions.create(
        model="formal", stop=["\0never", stop] if many else stop, **GREEDY
    )
    assert said(answer) == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


class Ticket(BaseModel):
    """What `parse` asks for; its JSON schema is pydantic's."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["damage", "delay", "other"]
    order: int = Field(ge=0, le=99999)
    urgent: bool


def test_a_pydantic_type_is_what_comes_back(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 200}
    parsed = client.chat.completions.parse(model="extract", response_format=Ticket, **asked)
    assert isinstance(parsed.choices[0].message.parsed, Ticket)
    with client.chat.completions.stream(model="extract", response_format=Ticket, **asked) as stream:
        for _ in stream:
            pass
    final = stream.get_final_completion().choices[0].message.parsed
    assert final == parsed.choices[0].message.parsed


def test_a_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="extract",
        messages=MESSAGES,
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_object"},
    )
    assert isinstance(json.loads(said(answer)), dict)


def test_models_are_listed_and_retrieved_by_the_listed_id(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert sorted(listed) == sorted([BASE, *ADAPTERS])
    for name, model in listed.items():
        assert client.models.retrieve(name) == model
        assert (model.object, model.owned_by) == ("model", "lorikeet")


def test_the_asynchronous_client_is_served_several_mixes_at_once(
    client: openai.OpenAI, server: Loopback
) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1",
            api_key=server.keys["operator"],
            _strict_response_validation=True,
        ) as asking:
            answers = [asking.chat.completions.create(model=name, **GREEDY) for name in ADAPTERS]
            return [said(each) for each in await asyncio.gather(*answers)]

    alone = [said(client.chat.completions.create(model=name, **GREEDY)) for name in ADAPTERS]
    assert asyncio.run(ask()) == alone


def chat(client: openai.OpenAI, model: str = BASE, **body: Any) -> Any:
    return client.chat.completions.create(model=model, **{**GREEDY, **body})


ALL_FOUR = {"adapters": [{"name": name} for name in ("extract", "formal", "friendly", "triage")]}
TAKEN = {"name": "triage", "source": {"type": "local", "path": "formal"}}
ERRORS: dict[str, tuple[type[openai.APIStatusError], int, str, str | None, Any]] = {
    "a field out of bounds": (
        *(openai.BadRequestError, 400, "invalid_request", "max_tokens"),
        lambda client: chat(client, max_tokens=-1),
    ),
    "a prompt over the context": (
        *(openai.BadRequestError, 400, "context_length_exceeded", "messages"),
        lambda client: chat(client, max_tokens=5000),
    ),
    "a model that is not there": (
        *(openai.NotFoundError, 404, "model_not_found", "model"),
        lambda client: chat(client, "nobody/formal"),
    ),
    "a card that is not there": (
        *(openai.NotFoundError, 404, "model_not_found", "model"),
        lambda client: client.models.retrieve("nobody/formal"),
    ),
    "a route that is not there": (
        *(openai.NotFoundError, 404, "not_found", None),
        lambda client: client.embeddings.create(model=BASE, input="a"),
    ),
    "a name that is taken": (
        *(openai.ConflictError, 409, "adapter_exists", "name"),
        lambda client: client.post("/adapters", body=TAKEN, cast_to=object),
    ),
    "a mix that does not fit": (
        *(openai.UnprocessableEntityError, 422, "mix_too_large", "adapters"),
        lambda client: chat(client, extra_body=ALL_FOUR),
    ),
    "a deadline that is over": (
        *(openai.InternalServerError, 504, "deadline_exceeded", None),
        lambda client: chat(client, max_tokens=900, extra_body={"ignore_eos": True, "timeout": 0.02}),
    ),
}


@pytest.mark.parametrize("case", list(ERRORS))
def test_an_error_is_of_the_class_of_its_status(client: openai.OpenAI, case: str) -> None:
    kind, status, code, param, ask = ERRORS[case]
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    check(caught.value, kind, status, code, param)


def check(
    error: openai.APIStatusError, kind: type[openai.APIStatusError], status: int, code: str, param: str | None
) -> None:
    assert type(error) is kind
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.type
    assert error.message
    assert error.request_id == error.response.headers["x-request-id"]


@pytest.mark.parametrize("key", ["sk-wrong", "lk-"])
def test_without_a_right_key_it_is_an_authentication_error(server: Loopback, key: str) -> None:
    with client_with(server, key) as stranger, pytest.raises(openai.APIStatusError) as caught:
        chat(stranger)
    check(caught.value, openai.AuthenticationError, 401, "invalid_api_key", None)


def test_a_key_without_the_scope_is_a_permission_error(server: Loopback) -> None:
    with (
        client_with(server, server.keys["scraper"]) as scraper,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        chat(scraper)
    check(caught.value, openai.PermissionDeniedError, 403, "insufficient_scope", None)


def busy(client: openai.OpenAI, **more: Any) -> AbstractContextManager[openai.Stream[ChatCompletionChunk]]:
    """As many requests as the tenant may have; they end when nobody listens, or as `more` says."""
    made: openai.Stream[ChatCompletionChunk] = chat(
        client, n=2, max_tokens=900, stream=True, extra_body={"ignore_eos": True, **more}
    )
    next(made)  # the server has taken them
    return made


def test_over_a_tenants_bound_it_is_a_rate_limit_error(server: Loopback) -> None:
    with client_with(server, server.keys["tenant"]) as tenant, busy(tenant):
        with pytest.raises(openai.APIStatusError) as caught:
            chat(tenant)
        check(caught.value, openai.RateLimitError, 429, "tenant_busy", None)
        assert int(caught.value.response.headers["retry-after"]) > 0


def test_the_client_comes_back_by_itself_and_is_served(server: Loopback) -> None:
    """What is in the way has ended once `Retry-After` is over."""
    with client_with(server, server.keys["tenant"], max_retries=8) as tenant, busy(tenant, timeout=2):
        raw = tenant.chat.completions.with_raw_response.create(model="formal", **GREEDY)
        assert raw.retries_taken > 0
        assert said(raw.parse())


def test_a_failure_in_mid_stream_is_an_error_and_not_an_end(client: openai.OpenAI) -> None:
    stream = chat(client, max_tokens=900, stream=True, extra_body={"ignore_eos": True, "timeout": 0.3})
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "deadline_exceeded"
    assert not isinstance(caught.value, openai.APIStatusError)
