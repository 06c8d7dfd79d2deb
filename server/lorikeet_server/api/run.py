"""Running a request: submit, stream, race the client's departure, turn failures into exceptions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request as HttpRequest

from lorikeet_adapters.mix import Mix
from lorikeet_server.api.services import Events, Services
from lorikeet_server.engine.constraint import Grammar
from lorikeet_server.engine.request import Finished, FinishReason, Request, Sampling, Token
from lorikeet_server.errors import ContextTooLong, GenerationFailed, Interrupted, error_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `text` is the tokens' text and what the ending released."""

    tokens: tuple[Token, ...]
    end: Finished

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens) + self.end.text


class ClientGone(Exception):
    """The client left before the answer was ready; there is nobody to answer."""


def make_request(
    prompt: Sequence[int], sampling: Sampling, mix: Mix, grammar: Grammar | None = None
) -> Request:
    return Request(uuid.uuid4().hex, tuple(prompt), sampling, mix, grammar=grammar)


def room(services: Services, prompt: Sequence[int], wanted: int | None, field: str) -> int:
    """Tokens to generate at most; raises ContextTooLong, naming `field`, when prompt and wish do not fit together."""
    limit = services.model.max_model_len
    if len(prompt) + (wanted or 1) > limit:
        raise ContextTooLong(
            f"the prompt has {len(prompt)} tokens and {wanted or 1} are to be generated; "
            f"the context holds {limit} in all",
            param=field,
        )
    return wanted or limit - len(prompt)


async def collect(events: Events, field: str = "model") -> Answer:
    """The whole answer; raises the failure's exception when there is none. `field` said which mix."""
    tokens: list[Token] = []
    with closing(events):
        async for event in events:
            if isinstance(event, Finished):
                return Answer(tuple(tokens), checked(event, field))
            tokens.append(event)
    raise GenerationFailed("the stream ended early")


def checked(end: Finished, field: str = "model") -> Finished:
    """The same event, unless the request did not end by itself: then its exception, naming `field` for its mix."""
    if end.failure is not None:
        raise error_of(end.failure, field)
    if end.reason is FinishReason.ABORTED:
        raise Interrupted(
            "the server is stopping and ended the request before it was complete; send it again"
        )
    return end


async def unless_gone(http: HttpRequest, work: Awaitable[T]) -> T:
    """Await `work`, but cancel it as soon as the client has left (raises ClientGone then)."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_departure(http))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _departure(http: HttpRequest) -> None:
    """The body has been read in full before, so the next message is the disconnect."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
