"""POST /generate, POST /generate_stream and POST / in the shape of LoRAX and TGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from lorikeet_server.api import sse
from lorikeet_server.api.access_log import entry_of
from lorikeet_server.api.body import read_body
from lorikeet_server.api.capture import Asked
from lorikeet_server.api.constraints import compiled
from lorikeet_server.api.encoding import beside, check_length
from lorikeet_server.api.envelope import native_envelope
from lorikeet_server.api.logprobs import native_prefill, native_token
from lorikeet_server.api.mixes import generation_header, lease_mix
from lorikeet_server.api.native_body import GenerateBody, PlainBody, StreamBody
from lorikeet_server.api.run import (
    Answer,
    check_width,
    checked,
    collect,
    interleaved,
    make_request,
    room,
    submit,
    unless_gone,
)
from lorikeet_server.api.services import Events, Services, TextCodec
from lorikeet_server.engine.request import Finished, FinishReason, Request, Token
from lorikeet_server.errors import RequestRefused


async def generate(http: HttpRequest) -> Response:
    payload, headers = await _whole(http, await read_body(http, GenerateBody))
    return JSONResponse(payload, headers=headers)


async def generate_stream(http: HttpRequest) -> Response:
    return await _stream(http, await read_body(http, StreamBody))


async def plain(http: HttpRequest) -> Response:
    """Either of the two, as `stream` says; what is not streamed comes as a list of one."""
    body = await read_body(http, PlainBody)
    if body.stream:
        return await _stream(http, body)
    payload, headers = await _whole(http, body)
    return JSONResponse([payload], headers=headers)


async def _whole(http: HttpRequest, body: GenerateBody) -> tuple[dict[str, Any], dict[str, str]]:
    """The answer and its headers."""
    services: Services = http.app.state.services
    requests, streams = await _submit(http, body)
    answers = await unless_gone(http, collect(streams))
    # The one whose tokens are the most likely on average, the first of equal ones.
    pairs = sorted(zip(requests, answers, strict=True), key=lambda pair: -pair[1].mean_logprob)
    (request, answer), *others = pairs
    payload: dict[str, Any] = {"generated_text": body.opening + answer.text}
    if body.parameters.details or body.parameters.decoder_input_details:
        payload["details"] = {
            **_whole_details(services.text, request, answer),
            "prompt_tokens": len(request.prompt),
            "skipped_tokens": 0,  # LoRAX's, of its speculation
        }
        if others:
            payload["details"]["best_of_sequences"] = [
                {"generated_text": body.opening + other.text, **_whole_details(services.text, own, other)}
                for own, other in others
            ]
    return payload, _headers(request, answer.end, body)


async def _stream(http: HttpRequest, body: GenerateBody) -> Response:
    services: Services = http.app.state.services
    for field, asks in (
        ("best_of", body.parameters.best_of > 1),
        ("decoder_input_details", body.parameters.decoder_input_details),
    ):
        if asks:
            raise RequestRefused(
                f"parameters.{field}: a stream does not tell it; ask for a whole answer",
                param=f"parameters.{field}",
            )
    (request,), streams = await _submit(http, body)
    parts = _events(services.text, request, streams, body.opening)
    return sse.stream(parts, native_envelope, generation_header(request.mix), entry_of(http))


async def _submit(http: HttpRequest, body: GenerateBody) -> tuple[Sequence[Request], Sequence[Events]]:
    services: Services = http.app.state.services
    parameters = body.parameters
    check_length(services, body.inputs, "inputs")
    work = partial(services.text.encode, body.inputs, special=True)
    prompt = await beside(http, len(body.inputs), work)
    if not prompt:
        raise RequestRefused("inputs: the prompt is empty", param="inputs")
    max_tokens = room(services, prompt, parameters.max_new_tokens, "inputs")
    check_width(services, 1, parameters.best_of, "parameters.best_of")
    samplings = parameters.samplings(max_tokens)
    contradiction = "parameters.ignore_eos_token" if parameters.ignore_eos_token else ""
    grammar = await compiled(services, parameters.asked(), contradiction)
    field = "parameters.adapter_id"
    mix = lease_mix(http, parameters.adapter_id, parameters, len(samplings), model_field=field)
    requests = [make_request(prompt, sampling, mix, grammar) for sampling in samplings]
    return requests, submit(http, requests, [Asked(1, text=body.inputs)])


async def _events(
    text: TextCodec, request: Request, streams: Sequence[Events], opening: str
) -> AsyncIterator[str]:
    """One event a token, held back by one so that the last carries the whole text; no [DONE]."""
    tokens: list[Token] = []
    async with aclosing(interleaved(streams)) as events:
        async for _, event in events:
            if isinstance(event, Finished):
                end = checked(event)
                whole = opening + Answer(tuple(tokens), end).text
                size = len(request.prompt)  # LoRAX has one name for it, TGI another
                details = {**_details(request, end), "prompt_tokens": size, "input_length": size}
                yield sse.data({**_event(text, request, tokens), "generated_text": whole, "details": details})
            elif isinstance(event, Token):
                if tokens:
                    yield sse.data({**_event(text, request, tokens), "generated_text": None, "details": None})
                tokens.append(event)


def _event(text: TextCodec, request: Request, tokens: Sequence[Token]) -> dict[str, Any]:
    """Of the last of the tokens."""
    token = tokens[-1]
    told = {"index": len(tokens), "token": native_token(text, token.token_id, token.logprob)}
    top = [native_token(text, *each) for each in token.top]
    return {**told, "top_tokens": top} if request.sampling.logprobs else told


def _whole_details(text: TextCodec, request: Request, answer: Answer) -> dict[str, Any]:
    tokens = [native_token(text, each.token_id, each.logprob) for each in answer.tokens]
    scored = request.sampling.prompt_logprobs is not None
    details = {
        **_details(request, answer.end),
        "prefill": native_prefill(text, request.prompt, answer.prompt) if scored else [],
        "tokens": tokens,
    }
    if request.sampling.logprobs:
        details["top_tokens"] = [[native_token(text, *each) for each in token.top] for token in answer.tokens]
    return details


def _details(request: Request, end: Finished) -> dict[str, Any]:
    return {
        "finish_reason": _finish_reason(end),
        "generated_tokens": end.completion_tokens,
        "seed": request.sampling.seed if request.sampling.temperature > 0 else None,
    }


def _finish_reason(end: Finished) -> str:
    if end.reason is FinishReason.LENGTH:
        return "length"
    return "stop_sequence" if isinstance(end.stopped_by, str) else "eos_token"


def _headers(request: Request, end: Finished, body: GenerateBody) -> dict[str, str]:
    """LoRAX's timing headers, in whole milliseconds."""

    def ms(seconds: float | None) -> str:
        return str(round((seconds or 0.0) * 1000))

    per_token = end.timing.total / max(end.completion_tokens, 1)
    headers = {
        "x-total-time": ms(end.timing.total),
        "x-queue-time": ms(end.timing.queued),
        "x-time-to-first-token": ms(end.timing.first_token),
        "x-time-per-token": ms(per_token),
        "x-prompt-tokens": str(len(request.prompt)),
        "x-generated-tokens": str(end.completion_tokens),
        "x-skipped-tokens": "0",
        "x-total-tokens": str(len(request.prompt) + end.completion_tokens),
        **generation_header(request.mix),
    }
    if body.parameters.adapter_id:
        headers["x-adapter-id"] = body.parameters.adapter_id.strip()  # a header cannot begin with a space
    return headers
