"""What is asked and answered, on its way to the request log: every choice that ended by itself is a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import Request as HttpRequest

from lorikeet_server.api.access_log import entry_of
from lorikeet_server.api.caller import caller_of
from lorikeet_server.api.chat_body import Message
from lorikeet_server.api.gate import template
from lorikeet_server.api.services import Services, TextCodec
from lorikeet_server.engine.request import Event, Finished, FinishReason, Request, Token
from lorikeet_server.request_log.log import RequestLog
from lorikeet_server.request_log.record import Record, Share

Listen = Callable[[Event], None]
CHARACTERS = 4  # of a token, about
BY_ITSELF = frozenset({FinishReason.STOP, FinishReason.LENGTH})


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as the client sent it: messages, or a text; neither for token ids. `told` of its answers are told."""

    told: int
    messages: Sequence[Message] = ()
    text: str = ""

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.text) + sum(len(part.text) for each in self.messages for part in each.content)


@dataclass(slots=True)
class _Heard:
    """One answer as it comes."""

    request: Request
    pieces: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: Finished | None = None

    def hear(self, event: Event) -> None:
        if isinstance(event, Token):
            self.pieces.append(event.text)
            self.logprobs.append(event.logprob)
        elif isinstance(event, Finished):
            self.pieces.append(event.text)
            self.end = event

    @property
    def mean_logprob(self) -> float:
        return sum(self.logprobs) / max(len(self.logprobs), 1)


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who asked whom, by which way."""

    key: str
    route: str
    model: str


class _Capture:
    """The answers to one prompt. Where only the best are told, which those are is known once all have ended."""

    def __init__(
        self, log: RequestLog, text: TextCodec, sender: _Sender, asked: Asked, requests: Sequence[Request]
    ) -> None:
        self._log = log
        self._text = text
        self._sender = sender
        self._asked = asked
        self._heard = [_Heard(each) for each in requests]

    def hear(self, place: int, event: Event) -> None:
        """Never waits and never raises; the last event of an answer hands its record over."""
        heard = self._heard[place]
        heard.hear(event)
        if heard.end is None:
            return
        if self._asked.told == len(self._heard):
            self._offer(heard, heard.end)
        elif all(each.end is not None for each in self._heard):
            best = sorted(self._heard, key=lambda each: -each.mean_logprob)  # as the routes choose
            for each in best[: self._asked.told]:
                self._offer(each, each.end)

    def _offer(self, heard: _Heard, end: Finished | None) -> None:
        if end is not None and end.reason in BY_ITSELF:
            size = self._asked.size or CHARACTERS * len(heard.request.prompt)
            self._log.offer(size + sum(map(len, heard.pieces)), partial(self._record, heard, end))

    def _record(self, heard: _Heard, end: Finished, at: float) -> Record:
        """On the log's own thread: there texts are joined, and token ids become text."""
        sender, request, messages = self._sender, heard.request, self._asked.messages
        return Record(
            id=f"req-{request.id}",
            created=at,
            tenant=request.tenant,
            key=sender.key,
            route=sender.route,
            model=sender.model,
            mix=tuple(Share(term.adapter, term.weight) for term in request.mix.terms),
            messages=tuple(each.as_plain() for each in messages) if messages else None,
            prompt=None if messages else self._asked.text or self._text.decode(request.prompt),
            answer="".join(heard.pieces),
            finish_reason=str(end.reason),
            prompt_tokens=len(request.prompt),
            completion_tokens=end.completion_tokens,
            total_s=end.timing.total,
        )


def listeners(http: HttpRequest, asked: Sequence[Asked], requests: Sequence[Request]) -> list[Listen]:
    """For each request who hears its events; the requests of each prompt stand together."""
    services: Services = http.app.state.services
    if services.request_log is None:
        return [_nobody] * len(requests)
    sender = _Sender(caller_of(http).key, template(http.scope), entry_of(http).model or "")
    many = len(requests) // len(asked)
    made = [
        _Capture(services.request_log, services.text, sender, one, requests[at * many : (at + 1) * many])
        for at, one in enumerate(asked)
    ]
    return [partial(made[at // many].hear, at % many) for at in range(len(requests))]


def _nobody(_: Event) -> None:
    """Nothing is kept."""
