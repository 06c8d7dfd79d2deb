"""Running requests: submit, stream, race the client's departure, turn failures into exceptions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import Request as HttpRequest

from lorikeet_adapters.mix import Mix
from lorikeet_server.api.access_log import Entry, entry_of
from lorikeet_server.api.caller import caller_of
from lorikeet_server.api.capture import Asked, Listen, listeners
from lorikeet_server.api.services import Events, Services
from lorikeet_server.engine.constraint import Grammar
from lorikeet_server.engine.request import (
    Event,
    Finished,
    FinishReason,
    PromptScores,
    Request,
    Sampling,
    Score,
    Token,
)
from lorikeet_server.errors import ContextTooLong, GenerationFailed, Interrupted, RequestRefused, error_of

T = TypeVar("T")
MAX_WIDTH = 256  # answers that one body may ask for


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `text` is the tokens' text and what the ending released, `prompt` its prompt's scores."""

    tokens: tuple[Token, ...]
    end: Finished
    prompt: tuple[Score, ...] = ()

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens) + self.end.text

    @property
    def mean_logprob(self) -> float:
        """By which the better of two answers is told; 0 for no token at all."""
        return sum(token.logprob for token in self.tokens) / max(len(self.tokens), 1)


class ClientGone(Exception):
    """The client left before the answer was ready; there is nobody to answer."""


def make_request(
    prompt: Sequence[int], sampling: Sampling, mix: Mix, grammar: Grammar | None = None
) -> Request:
    return Request(uuid.uuid4().hex, tuple(prompt), sampling, mix, grammar=grammar)


def submit(http: HttpRequest, requests: Sequence[Request], asked: Sequence[Asked]) -> Sequence[Events]:
    """The one way to the engine: there a request is its tenant's, and is seen by both logs.

    The answers to each of the prompts `asked` stand together; the prompt counts once, as in the answer's usage.
    """
    services: Services = http.app.state.services
    tenant = caller_of(http).tenant or ""
    owned = [replace(each, tenant=tenant) for each in requests]
    streams = services.requests.submit(owned)
    entry, answers = entry_of(http), len(requests) // len(asked)
    entry.prompt_tokens += sum(len(each.prompt) for each in requests[::answers])
    heard = zip(streams, listeners(http, asked, owned), strict=True)
    return [_Counted(each, entry, hear) for each, hear in heard]


class _Counted:
    """The same events, with each token in the access log's entry; a client that leaves got those so far."""

    def __init__(self, events: Events, entry: Entry, hear: Listen) -> None:
        self._events = events
        self._each = aiter(events)
        self._entry = entry
        self._hear = hear

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await anext(self._each)
        self._entry.completion_tokens += isinstance(event, Token)
        self._hear(event)
        return event

    def close(self) -> None:
        self._events.close()


def room(services: Services, prompt: Sequence[int], wanted: int | None, field: str) -> int:
    """Tokens to generate at most; raises ContextTooLong, naming `field`, when prompt and wish do not fit together."""
    limit = services.model.max_model_len
    least = 1 if wanted is None else wanted
    if len(prompt) + least > limit:
        raise ContextTooLong(
            f"the prompt has {len(prompt)} tokens and {least} are to be generated; "
            f"the context holds {limit} in all",
            param=field,
        )
    return limit - len(prompt) if wanted is None else wanted


def check_width(services: Services, prompts: int, answers: int, field: str) -> None:
    """Raises RequestRefused, naming `field`, when one body asks for more than could ever run at once."""
    most = min(MAX_WIDTH, services.http.max_open_requests)
    if prompts * answers > most:
        raise RequestRefused(
            f"{field}: prompts times answers is {prompts} x {answers}, one request may ask for {most}; send several",
            param=field,
        )


async def interleaved(streams: Sequence[Events]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several requests as they come, each with the place of its request; one `Finished` each.

    Whoever stops listening, by an error or because the client has left, has cancelled all of them.
    """
    if len(streams) == 1:  # the usual case needs no task of its own to carry each token over
        async with aclosing(_until_finished(streams[0])) as only:
            async for each in only:
                yield 0, each
        return
    arrived: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()

    async def pump(place: int, stream: Events) -> None:
        try:
            async with aclosing(_until_finished(stream)) as events:
                async for event in events:
                    arrived.put_nowait((place, event))
        except Exception as error:
            arrived.put_nowait((place, error))

    pumps = [asyncio.ensure_future(pump(place, stream)) for place, stream in enumerate(streams)]
    try:
        running = len(streams)
        while running:
            place, event = await arrived.get()
            if isinstance(event, Exception):
                raise event
            running -= isinstance(event, Finished)
            yield place, event
    finally:
        for task in pumps:
            task.cancel()
        for stream in streams:
            stream.close()


async def _until_finished(stream: Events) -> AsyncGenerator[Event, None]:
    """Raises GenerationFailed when the stream ends without its ending; closed early it has cancelled its request."""
    try:
        async for event in stream:
            yield event
            if isinstance(event, Finished):
                return
        raise GenerationFailed("the stream ended early")
    finally:
        stream.close()


async def collect(streams: Sequence[Events], field: str = "model") -> list[Answer]:
    """The whole answers, in the order of their requests. `field` said which mix.

    One request that fails raises its exception and cancels the others.
    """
    tokens: list[list[Token]] = [[] for _ in streams]
    prompts: list[tuple[Score, ...]] = [() for _ in streams]
    ends: dict[int, Finished] = {}
    async with aclosing(interleaved(streams)) as events:
        async for place, event in events:
            match event:
                case Token():
                    tokens[place].append(event)
                case PromptScores(scores=scores):
                    prompts[place] = scores
                case Finished():
                    ends[place] = checked(event, field)
    return [Answer(tuple(tokens[place]), ends[place], prompts[place]) for place in range(len(streams))]


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
