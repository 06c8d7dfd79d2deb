"""A conversation as the tokens that the model sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter
from jinja2 import TemplateError
from starlette.requests import Request

from lorikeet_server.api.chat_body import Message
from lorikeet_server.api.daemon import begun
from lorikeet_server.api.encoding import check_length
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestError, RequestRefused, ServerBusy

T = TypeVar("T")
DEADLINE_S = 10.0


async def encoded(http: Request, messages: Sequence[Message], *, fits: bool = False) -> tuple[int, ...]:
    """The tokens of a conversation, by a thread and within DEADLINE_S. Raises RequestRefused or ServerBusy.

    With `fits` one that is too long for the context by far is refused before its tokens are counted.
    """
    places: CapacityLimiter = http.app.state.backstage.rendering
    services: Services = http.app.state.services
    late: RequestError = ServerBusy("other conversations are being rendered; try again in a second")
    try:
        async with asyncio.timeout(DEADLINE_S), _place(places) as leave:
            late = RequestRefused(
                f"the chat template did not render these messages within {DEADLINE_S:g} s; send less text",
                param="messages",
            )
            return await asyncio.wrap_future(
                begun(leave(partial(encode_messages, services, messages, fits=fits)))
            )
    except TimeoutError:
        raise late from None


@asynccontextmanager
async def _place(places: CapacityLimiter) -> AsyncIterator[Callable[[Callable[[], T]], Callable[[], T]]]:
    """A place for work on a thread that may be abandoned: the thread, and not who waited for it, gives it back.

    Were it given back with the waiting, templates that never end would take thread upon thread.
    """
    loop, borrower, runs = asyncio.get_running_loop(), object(), False

    def give_back() -> None:
        with suppress(RuntimeError):  # it has been given back
            places.release_on_behalf_of(borrower)

    def leaving(work: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            nonlocal runs
            runs = True
            try:
                return work()
            finally:
                with suppress(RuntimeError):  # the loop has ended before the work
                    loop.call_soon_threadsafe(give_back)

        return run

    await places.acquire_on_behalf_of(borrower)
    try:
        yield leaving
    finally:
        if not runs:
            give_back()


def encode_messages(
    services: Services, messages: Sequence[Message], *, fits: bool = False
) -> tuple[int, ...]:
    """Takes as long as the conversation is long, or as the template likes. Raises RequestRefused."""
    if not services.text.has_template:
        raise RequestRefused(
            "the base model has no chat template; send plain text: /v1/completions takes it",
            param="messages",
            code="no_chat_template",
        )
    try:
        text = services.text.render([message.as_plain() for message in messages])
    except TemplateError as error:
        raise RequestRefused(
            f"the chat template refuses these messages: {error}", param="messages"
        ) from error
    except Exception as error:  # a template is the model's own code: it can raise anything
        raise RequestRefused("the chat template cannot render these messages", param="messages") from error
    if fits:
        check_length(services, text, "messages")
    return services.text.encode(text)
