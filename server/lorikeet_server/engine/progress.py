"""One running request as the engine sees it: its tokens, its text, and whether it is over."""

from __future__ import annotations

from dataclasses import dataclass

from lorikeet_server.engine.batch import Sampled
from lorikeet_server.engine.detokenise import Decode, IncrementalText
from lorikeet_server.engine.lifecycle import RequestEvent
from lorikeet_server.engine.request import PromptScores, Request, Timing, Token


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a request is over; `text` is what was still held back."""

    event: RequestEvent
    text: str = ""
    stopped_by: str | int | None = None


class Progress:
    """Folds sampled tokens into events. `limit` is the most tokens prompt and answer may have together."""

    def __init__(self, request: Request, decode: Decode, eos: frozenset[int], limit: int, now: float) -> None:
        self.request = request
        sampling = request.sampling
        self._text = IncrementalText(decode, sampling.stop)
        self._ends = sampling.ends(eos)
        self._min_tokens = sampling.min_tokens
        self._max_tokens = min(sampling.max_tokens, limit - len(request.prompt))
        self._submitted = now
        self._admitted: float | None = None
        self._first_token: float | None = None
        self.count = 0

    def admitted(self, now: float) -> None:
        """Its first prompt tokens are being computed."""
        self._admitted = self._admitted or now

    def push(self, sampled: Sampled, now: float) -> tuple[tuple[PromptScores | Token, ...], Ending | None]:
        """Take the next token; returns what is to be told of it, in order, and whether it was the last."""
        told = () if sampled.prompt is None else (PromptScores(self.request.id, sampled.prompt),)
        if self._max_tokens == 0:
            return told, Ending(RequestEvent.EXHAUST)
        token, ending = self._take(sampled, now)
        return (*told, token), ending

    def _take(self, sampled: Sampled, now: float) -> tuple[Token, Ending | None]:
        """The token that ends a request is counted but has no text."""
        assert sampled.token is not None
        self._first_token = self._first_token or now
        token, index = sampled.token, self.count
        self.count += 1
        if token in self._ends:
            text, stopped = self._text.flush()
            return self._event(index, sampled, ""), Ending(RequestEvent.STOP, text, stopped or token)
        text, stopped = self._text.push(token, may_stop=self.count > self._min_tokens)
        if stopped is not None:
            return self._event(index, sampled, text), Ending(RequestEvent.STOP, "", stopped)
        if self.count < self._max_tokens:
            return self._event(index, sampled, text), None
        rest, stopped = self._text.flush()
        event = RequestEvent.EXHAUST if stopped is None else RequestEvent.STOP
        return self._event(index, sampled, text), Ending(event, rest, stopped)

    def timing(self, now: float) -> Timing:
        def since(moment: float | None) -> float | None:
            return None if moment is None else moment - self._submitted

        return Timing(since(self._admitted), since(self._first_token), now - self._submitted)

    def _event(self, index: int, sampled: Sampled, text: str) -> Token:
        assert sampled.token is not None
        return Token(self.request.id, index, sampled.token, sampled.logprob, text, sampled.top)
