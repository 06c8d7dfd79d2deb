"""Which field of a request an exception is about, where it was raised below HTTP and cannot know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lorikeet_adapters.errors import AdapterIncompatible, AdapterNotFound, GenerationNotFound, LorikeetError


@contextmanager
def blaming(
    field: str,
    kinds: type[LorikeetError] | tuple[type[LorikeetError], ...] = (
        AdapterIncompatible,
        AdapterNotFound,
        GenerationNotFound,
    ),
) -> Iterator[None]:
    """Exceptions of these kinds that know of no field are about this one."""
    try:
        yield
    except kinds as error:
        error.param = error.param or field
        raise
