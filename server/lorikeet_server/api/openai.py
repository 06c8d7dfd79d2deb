"""POST /v1/chat/completions and POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from lorikeet_server.api import sse
from lorikeet_server.api.body import read_body
from lorikeet_server.api.constraints import compiled
from lorikeet_server.api.envelope import openai_envelope
from lorikeet_server.api.mixes import generation_header, lease_mix, mix_field
from lorikeet_server.api.run import Answer, checked, collect, make_request, room, unless_gone
from lorikeet_server.api.services import Events, Services
from lorikeet_server.api.wire import ChatBody, CompletionBody, GenerationBody
from lorikeet_server.engine.request import Finished, Request
from lorikeet_server.errors import RequestRefused

MAX_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class _Shape:
    """How one of the two routes spells its objects."""

    prefix: str
    object: str
    chunk_object: str
    choice: Callable[[int, str, str | None], dict[str, Any]]
    delta: Callable[[int, str, str | None], dict[str, Any]]
    opening: Callable[[], dict[str, Any]] | None = None


def _chat_choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def _chat_delta(index: int, text: str, finish: str | None) -> dict[str, Any]:
    delta = {"content": text} if text else {}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _text_choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _chat_opening() -> dict[str, Any]:
    return {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }


CHAT = _Shape(
    "chatcmpl", "chat.completion", "chat.completion.chunk", _chat_choice, _chat_delta, _chat_opening
)
TEXT = _Shape("cmpl", "text_completion", "text_completion", _text_choice, _text_choice)


async def chat_completions(http: HttpRequest) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, ChatBody)
    if not services.text.has_template:
        raise RequestRefused(
            "the base model has no chat template; use /v1/completions",
            param="messages",
            code="no_chat_template",
        )
    prompt = await run_in_threadpool(_encode_chat, services, body)
    max_tokens = room(services, prompt, body.max_completion_tokens or body.max_tokens, "messages")
    return await _answer(http, body, CHAT, [prompt], [max_tokens])


async def completions(http: HttpRequest) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, CompletionBody)
    prompts = await run_in_threadpool(_encode_prompts, services, body)
    return await _answer(
        http, body, TEXT, prompts, [room(services, each, body.max_tokens, "prompt") for each in prompts]
    )


def _encode_chat(services: Services, body: ChatBody) -> tuple[int, ...]:
    messages = [message.as_plain() for message in body.messages]
    try:
        text = services.text.render(messages)
    except TemplateError as error:
        raise RequestRefused(
            f"the chat template refuses these messages: {error}", param="messages"
        ) from error
    except Exception as error:  # a template is the model's own code: it can raise anything
        raise RequestRefused("the chat template cannot render these messages", param="messages") from error
    return services.text.encode(text)


def _encode_prompts(services: Services, body: CompletionBody) -> list[tuple[int, ...]]:
    if not 0 < len(body.prompts) <= MAX_PROMPTS:
        raise RequestRefused(f"send 1 to {MAX_PROMPTS} prompts", param="prompt")
    if body.stream and len(body.prompts) > 1:
        raise RequestRefused(
            "a stream takes one prompt; send the others in requests of their own", param="prompt"
        )
    encoded = [
        services.text.encode(each, special=True) if isinstance(each, str) else tuple(each)
        for each in body.prompts
    ]
    for ids in encoded:
        if not ids:
            raise RequestRefused("the prompt is empty", param="prompt")
        if max(ids) >= services.model.vocabulary:
            raise RequestRefused(f"the vocabulary has {services.model.vocabulary} tokens", param="prompt")
    return encoded


async def _answer(
    http: HttpRequest,
    body: GenerationBody,
    shape: _Shape,
    prompts: Sequence[tuple[int, ...]],
    limits: Sequence[int],
) -> Response:
    services: Services = http.app.state.services
    grammar = await compiled(services, body.asked(), "ignore_eos" if body.ignore_eos else "")
    mix = lease_mix(services, body.model, body, len(prompts), user=body.user)
    requests = [
        make_request(prompt, body.sampling(limit), mix, grammar)
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    streams = services.requests.submit(requests)
    head = {"id": f"{shape.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    headers = generation_header(mix)
    if body.stream:
        parts = _chunks(requests[0], streams[0], shape, head, body)
        return sse.stream(parts, openai_envelope, headers)
    try:
        answers = await unless_gone(
            http, asyncio.gather(*(collect(each, mix_field(body)) for each in streams))
        )
    finally:
        for each in streams:
            each.close()  # one that failed leaves the others without a reader
    return JSONResponse(_whole(requests, answers, shape, head), headers=headers)


def _whole(
    requests: Sequence[Request], answers: Sequence[Answer], shape: _Shape, head: dict[str, Any]
) -> dict[str, Any]:
    choices = [shape.choice(index, answer.text, answer.end.reason) for index, answer in enumerate(answers)]
    return {
        **head,
        "object": shape.object,
        "choices": choices,
        "usage": _usage(
            sum(len(request.prompt) for request in requests),
            sum(answer.end.completion_tokens for answer in answers),
        ),
        "lorikeet": _details(requests[0], answers[0].end),
    }


async def _chunks(
    request: Request, events: Events, shape: _Shape, head: dict[str, Any], body: GenerationBody
) -> AsyncIterator[str]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        usage: dict[str, Any] = {"usage": None} if body.wants_usage else {}
        return sse.data({**head, "object": shape.chunk_object, "choices": choices, **usage, **more})

    if shape.opening is not None:
        yield chunk([shape.opening()])
    with closing(events):
        async for event in events:
            if not isinstance(event, Finished):
                if event.text:
                    yield chunk([shape.delta(0, event.text, None)])
                continue
            end = checked(event, mix_field(body))
            if end.text:
                yield chunk([shape.delta(0, end.text, None)])
            yield chunk([shape.delta(0, "", end.reason)], lorikeet=_details(request, end))
            if body.wants_usage:
                yield chunk([], usage=_usage(len(request.prompt), end.completion_tokens))
            yield sse.DONE


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _details(request: Request, end: Finished) -> dict[str, Any]:
    """Ours: what the mix was and how long it took, in seconds."""
    mix = [{"generation": term.adapter, "weight": term.weight} for term in request.mix.terms]
    timing = end.timing
    return {
        "mix": mix,
        "queue_s": timing.queued,
        "first_token_s": timing.first_token,
        "total_s": timing.total,
    }
