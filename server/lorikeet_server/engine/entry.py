"""One request as the scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lorikeet_server.engine.lifecycle import RequestState
from lorikeet_server.engine.request import Request

WAITING = (RequestState.WAITING, RequestState.WAITING_ADAPTER)


@dataclass(slots=True)
class Entry:
    """`sequence` is what its keys and values must cover before it can go on; preemption sets `computed` back."""

    request: Request
    state: RequestState
    order: int  # of arrival
    prefix: tuple[bytes, ...] = ()  # keys of the prompt's whole blocks, see prefix_index
    computed: int = 0  # tokens of the sequence
    generated: list[int] = field(default_factory=list)
    passed: int = 0  # later requests that took what this one waits for
    charged: bool = False  # its prompt has been counted against its tenant

    @property
    def adapters(self) -> tuple[str, ...]:
        return self.request.mix.adapters

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def length(self) -> int:
        """Tokens it holds once the coming step is done."""
        return len(self.request.prompt) + len(self.generated)

    @property
    def holds_slot(self) -> bool:
        return self.state in (RequestState.PREFILL, RequestState.DECODE)

    @property
    def looked_back_on(self) -> tuple[int, ...]:
        """What it has generated, where the choice of the next token depends on it."""
        return tuple(self.generated) if self.request.sampling.looks_back else ()

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """Tokens [start, stop) of prompt and answer."""
        prompt = self.request.prompt
        beyond = self.generated[max(start - len(prompt), 0) : max(stop - len(prompt), 0)]
        return (*prompt[start:stop], *beyond)
