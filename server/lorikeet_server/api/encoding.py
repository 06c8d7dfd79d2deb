"""Texts that become tokens: beside the loop, and refused unread where no tokens could hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from lorikeet_server.api.backstage import apart
from lorikeet_server.api.services import Services
from lorikeet_server.errors import ContextTooLong

T = TypeVar("T")
LONG = 64 << 10  # characters, a tenth of a second's work; longer ones wait for a thread among themselves


async def beside(http: Request, characters: int, work: Callable[[], T]) -> T:
    """Run what encodes so many characters, so that long texts hold none of the threads that others need."""
    return await (apart(http, work) if characters > LONG else run_in_threadpool(work))


def check_length(services: Services, text: str, field: str) -> None:
    """Raises ContextTooLong, naming `field`, for a text longer than the context full of the longest tokens."""
    limit = services.model.max_model_len
    most = limit * services.text.longest
    if len(text) > most:
        raise ContextTooLong(
            f"{field}: a text of {len(text)} characters is more than the context of {limit} tokens can hold",
            param=field,
        )
