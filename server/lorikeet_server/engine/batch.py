"""What one step decides and what it yields. Nothing else passes between scheduler and runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorikeet_server.engine.request import Request


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Prompt tokens [start, stop) of a request; the last chunk takes a slot and yields a token."""

    request: Request
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        return self.stop == len(self.request.prompt)


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One running request: feed `token`, which is its generated token number `index`."""

    request: Request
    token: int
    index: int


@dataclass(frozen=True, slots=True)
class Load:
    """An order to the loader. `ticket` tells its outcome from that of an earlier order, retired since."""

    generation: str
    ticket: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One step, in the order in which the runner carries it out."""

    leave: tuple[str, ...] = ()  # requests whose slot or half-made prefill is given back
    load: tuple[Load, ...] = ()
    evict: tuple[str, ...] = ()  # generations whose rank rows or host tensors are given back
    insert: tuple[str, ...] = ()  # generations whose host tensors become rank rows
    decode: tuple[DecodeRow, ...] = ()  # every running request
    prefill: tuple[PrefillChunk, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.decode) + sum(chunk.stop - chunk.start for chunk in self.prefill)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A row's next token; `token` is None when its logits were not finite."""

    token: int | None
    logprob: float


@dataclass(frozen=True, slots=True)
class StepOutput:
    """By request id, for every decode row and every last prefill chunk."""

    sampled: Mapping[str, Sampled]
