"""POST /tokenize and /detokenize, in vLLM's shape, also under /v1."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lorikeet_adapters.errors import MixRefused
from lorikeet_adapters.mix import parse_mix
from lorikeet_server.api.body import Body, read_body
from lorikeet_server.api.caller import view_of
from lorikeet_server.api.chat_body import Message
from lorikeet_server.api.completion_body import TokenIds
from lorikeet_server.api.encoding import beside
from lorikeet_server.api.rendering import encoded
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestRefused


class TokenizeBody(Body):
    """A text, or messages through the chat template. All adapters have the base's tokenizer."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "tools": ([],),
        "chat_template_kwargs": ({},),
    }
    model: str | None = Field(default=None, max_length=2048)
    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=1024)
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeBody:
        if (self.prompt is None) is (self.messages is None):
            raise PydanticCustomError("prompt", "send either prompt or messages")
        if self.messages is not None and self.add_special_tokens:
            raise PydanticCustomError("special", "the chat template adds the special tokens itself")
        return self


class DetokenizeBody(Body):
    model: str | None = Field(default=None, max_length=2048)
    tokens: TokenIds


async def tokenize(http: Request) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, TokenizeBody)
    _check_model(http, body.model)
    tokens = await _tokens(http, body)
    strings = await run_in_threadpool(services.text.pieces, tokens) if body.return_token_strs else None
    return JSONResponse(
        {
            "count": len(tokens),
            "max_model_len": services.model.max_model_len,
            "tokens": list(tokens),
            "token_strs": strings,
        }
    )


async def detokenize(http: Request) -> Response:
    services: Services = http.app.state.services
    body = await read_body(http, DetokenizeBody)
    _check_model(http, body.model)
    if max(body.tokens, default=0) >= services.model.vocabulary:
        size = services.model.vocabulary
        message = f"tokens: there is no token {max(body.tokens)}, the vocabulary has {size} tokens"
        raise RequestRefused(message, param="tokens", code="unknown_token")
    text = await run_in_threadpool(services.text.decode, body.tokens, special=True)
    return JSONResponse({"prompt": text})


async def _tokens(http: Request, body: TokenizeBody) -> tuple[int, ...]:
    services: Services = http.app.state.services
    if body.messages is not None:
        return await encoded(http, body.messages)
    assert body.prompt is not None
    special = body.add_special_tokens is not False
    return await beside(http, len(body.prompt), partial(services.text.encode, body.prompt, special=special))


def _check_model(http: Request, model: str | None) -> None:
    """Raises AdapterNotFound for what a generation request could not name either."""
    registry = view_of(http)
    if not model:
        return
    try:
        terms = parse_mix(model, registry.is_name)
    except MixRefused as error:
        raise RequestRefused(str(error), param="model", code="invalid_mix") from None
    for term in terms:
        if not registry.is_name(term.adapter):
            raise registry.missing(term.adapter)
