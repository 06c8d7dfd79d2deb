"""POST /generate and POST /generate_stream in the shape of LoRAX and TGI."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any, ClassVar

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from lorikeet_server.api import sse
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.constraints import NativeConstraintFields, compiled
from lorikeet_server.api.envelope import native_envelope
from lorikeet_server.api.mixes import generation_header, lease_mix
from lorikeet_server.api.run import Answer, checked, collect, make_request, room, unless_gone
from lorikeet_server.api.services import Events, Services, TextCodec
from lorikeet_server.api.wire import MAX_TOP_K, SMALLEST, MixFields, Stops, temperature_of
from lorikeet_server.engine.request import Finished, FinishReason, Request, Sampling, Token
from lorikeet_server.errors import RequestRefused


class Parameters(MixFields, NativeConstraintFields):
    """Sampling happens when `do_sample` is true or any of temperature, top_k, top_p asks for it, as in TGI."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "best_of": (1,),
        "repetition_penalty": (1,),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "typical_p": (1,),
        "watermark": (False,),
        "decoder_input_details": (False,),
        "top_n_tokens": (0,),
        "return_k_alternatives": (0,),
        "adapter_id": ("",),
    }
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"api_token", "adapter_source"})
    adapter_id: str = ""
    do_sample: bool = False
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOP_K)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    ignore_eos_token: bool = False
    return_full_text: bool = False
    stop: Stops = Field(default_factory=list)
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    details: bool = False

    def sampling(self, max_tokens: int) -> Sampling:
        warped = (
            self.temperature not in (None, 1.0) or self.top_k is not None or self.top_p not in (None, 1.0)
        )
        temperature = 1.0 if self.temperature is None else temperature_of(self.temperature)
        return Sampling(
            max_tokens=max_tokens,
            temperature=temperature if self.do_sample or warped else 0.0,
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else max(self.top_p, SMALLEST),
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(self.stop),
            ignore_eos=self.ignore_eos_token,
        )


class GenerateBody(Body):
    inputs: str = Field(min_length=1)
    parameters: Parameters = Field(default_factory=Parameters)

    @property
    def opening(self) -> str:
        """What stands before the answer in `generated_text`."""
        return self.inputs if self.parameters.return_full_text else ""


async def generate(http: HttpRequest) -> Response:
    body = await read_body(http, GenerateBody)
    services: Services = http.app.state.services
    request, events = await _submit(services, body)
    answer = await unless_gone(http, collect(events))
    payload: dict[str, Any] = {"generated_text": body.opening + answer.text}
    if body.parameters.details:
        payload["details"] = {
            **_details(request, answer.end),
            "prefill": [],
            "tokens": [_token(services.text, token) for token in answer.tokens],
        }
    return JSONResponse(payload, headers=_headers(request, answer.end, body))


async def generate_stream(http: HttpRequest) -> Response:
    body = await read_body(http, GenerateBody)
    services: Services = http.app.state.services
    request, events = await _submit(services, body)
    parts = _events(services.text, request, events, body.opening)
    return sse.stream(parts, native_envelope, generation_header(request.mix))


async def _submit(services: Services, body: GenerateBody) -> tuple[Request, Events]:
    parameters = body.parameters
    prompt = await run_in_threadpool(services.text.encode, body.inputs, special=True)
    if not prompt:
        raise RequestRefused("inputs: the prompt is empty", param="inputs")
    max_tokens = room(services, prompt, parameters.max_new_tokens, "inputs")
    contradiction = "parameters.ignore_eos_token" if parameters.ignore_eos_token else ""
    grammar = await compiled(services, parameters.asked(), contradiction)
    mix = lease_mix(services, parameters.adapter_id, parameters)
    request = make_request(prompt, parameters.sampling(max_tokens), mix, grammar)
    return request, services.requests.submit([request])[0]


async def _events(text: TextCodec, request: Request, events: Events, opening: str) -> AsyncIterator[str]:
    """One event a token, held back by one so that the last carries the whole text; no [DONE]."""
    tokens: list[Token] = []
    with closing(events):
        async for event in events:
            if isinstance(event, Finished):
                end = checked(event)
                whole = opening + Answer(tuple(tokens), end).text
                last = {"index": len(tokens), "token": _token(text, tokens[-1])}
                yield sse.data({**last, "generated_text": whole, "details": _details(request, end)})
                return
            if tokens:
                before = {"index": len(tokens), "token": _token(text, tokens[-1])}
                yield sse.data({**before, "generated_text": None, "details": None})
            tokens.append(event)


def _token(text: TextCodec, token: Token) -> dict[str, Any]:
    spelled = text.token_text(token.token_id)
    return {
        "id": token.token_id,
        "text": spelled,
        "logprob": token.logprob,
        "special": text.is_special(token.token_id),
    }


def _details(request: Request, end: Finished) -> dict[str, Any]:
    return {
        "finish_reason": _finish_reason(end),
        "prompt_tokens": len(request.prompt),
        "input_length": len(request.prompt),
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
        "x-total-tokens": str(len(request.prompt) + end.completion_tokens),
        **generation_header(request.mix),
    }
    if body.parameters.adapter_id:
        headers["x-adapter-id"] = body.parameters.adapter_id.strip()  # a header cannot begin with a space
    return headers
