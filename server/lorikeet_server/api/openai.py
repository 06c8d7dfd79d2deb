"""POST /v1/chat/completions and POST /v1/completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from lorikeet_server.api import sse
from lorikeet_server.api.access_log import entry_of
from lorikeet_server.api.answer import Job, chunks, whole
from lorikeet_server.api.body import read_body
from lorikeet_server.api.capture import Asked
from lorikeet_server.api.chat_body import ChatBody
from lorikeet_server.api.choice import CHAT, TEXT, ChatChoice, Prompt, TextChoice
from lorikeet_server.api.completion_body import CompletionBody, TokenIds
from lorikeet_server.api.constraints import compiled
from lorikeet_server.api.encoding import beside, check_length
from lorikeet_server.api.envelope import openai_envelope
from lorikeet_server.api.mixes import generation_header, lease_mix, mix_field
from lorikeet_server.api.rendering import encoded
from lorikeet_server.api.run import check_width, collect, make_request, room, submit, unless_gone
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestRefused

MAX_PROMPTS = 64


async def chat_completions(http: HttpRequest) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, ChatBody)
    prompt = Prompt(await encoded(http, body.messages, fits=True))
    max_tokens = room(services, prompt.ids, body.max_completion_tokens or body.max_tokens, "messages")
    make = partial(ChatChoice, body, services.text)
    asked = [Asked(body.n, body.messages)]
    return await _answer(http, Job(body, [prompt], [max_tokens], CHAT, make), asked)


async def completions(http: HttpRequest) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, CompletionBody)
    for each in body.prompts:
        if isinstance(each, str):
            check_length(services, each, "prompt")
    prompts = await beside(http, sum(map(len, body.prompts)), partial(_encode_prompts, services, body))
    limits = [room(services, each.ids, body.max_tokens, "prompt") for each in prompts]
    make = partial(TextChoice, body, services.text)
    asked = [Asked(body.n, text=each.text) for each in prompts]
    return await _answer(http, Job(body, prompts, limits, TEXT, make), asked)


async def _answer(http: HttpRequest, job: Job, asked: Sequence[Asked]) -> Response:
    services: Services = http.app.state.services
    body = job.body
    at_fault = "prompt" if body.answers == 1 else "n" if body.answers == body.n else "best_of"
    check_width(services, len(job.prompts), body.answers, at_fault)
    _check_bias(services, body.logit_bias)
    samplings = job.samplings()
    grammar = await compiled(services, body.asked(), body.contradiction)
    mix = lease_mix(http, body.model, body, len(samplings), user=body.user, chat=job.names is CHAT)
    requests = [
        body.urged(make_request(prompt.ids, sampling, mix, grammar)) for prompt, sampling in samplings
    ]
    streams = submit(http, requests, asked)
    headers = generation_header(mix)
    if body.stream:
        return sse.stream(chunks(job, requests, streams), openai_envelope, headers, entry_of(http))
    answers = await unless_gone(http, collect(streams, mix_field(body)))
    return JSONResponse(whole(job, requests, answers), headers=headers)


def _check_bias(services: Services, bias: Mapping[str, float]) -> None:
    """Raises RequestRefused for a token the base does not have."""
    beyond = [token for token in bias if int(token) >= services.model.vocabulary]
    if beyond:
        raise RequestRefused(
            f"logit_bias: the token {beyond[0]} does not exist, the vocabulary has {services.model.vocabulary}",
            param="logit_bias",
        )


def _encode_prompts(services: Services, body: CompletionBody) -> list[Prompt]:
    if not 0 < len(body.prompts) <= MAX_PROMPTS:
        raise RequestRefused(f"send 1 to {MAX_PROMPTS} prompts", param="prompt")
    return [_encode_prompt(services, each, body.echo) for each in body.prompts]


def _encode_prompt(services: Services, prompt: str | TokenIds, echo: bool) -> Prompt:
    """A prompt of token ids has its text told only if it is echoed."""
    if isinstance(prompt, str):
        made = Prompt(services.text.encode(prompt, special=True), prompt)
    else:
        made = Prompt(tuple(prompt))
    if not made.ids:
        raise RequestRefused("the prompt is empty", param="prompt")
    if max(made.ids) >= services.model.vocabulary:
        size = services.model.vocabulary
        message = f"prompt: there is no token {max(made.ids)}, the vocabulary has {size} tokens"
        raise RequestRefused(message, param="prompt", code="unknown_token")
    if echo and not isinstance(prompt, str):
        return Prompt(made.ids, services.text.decode(made.ids))
    return made
