"""Every request between its submission and its one terminal event."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lorikeet_server.engine.batch import Sampled
from lorikeet_server.engine.detokenise import Decode
from lorikeet_server.engine.failures import too_long, unknown_token
from lorikeet_server.engine.progress import Ending, Progress
from lorikeet_server.engine.request import (
    Failure,
    Finished,
    FinishReason,
    PromptScores,
    Request,
    Token,
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the engine needs to know of the tokenizer."""

    decode: Decode
    eos: frozenset[int]


class Roster:
    """`limit` is the most tokens prompt and answer may have together, `embeddings` how many ids the base knows."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        limit: int,
        embeddings: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vocabulary = vocabulary
        self._limit = limit
        self._embeddings = embeddings
        self._clock = clock
        self._progress: dict[str, Progress] = {}

    def enter(self, request: Request) -> Failure | None:
        """Take it in; returns why it can never be served, if so."""
        self._progress[request.id] = Progress(
            request, self._vocabulary.decode, self._vocabulary.eos, self._limit, self._clock()
        )
        room = self._limit - min(request.sampling.max_tokens, 1)
        if not 0 < len(request.prompt) <= room:
            return too_long(len(request.prompt), self._limit)
        if max(request.prompt) >= self._embeddings:
            return unknown_token(max(request.prompt), self._embeddings)
        return None

    def began(self, request_id: str) -> None:
        """Its first prompt tokens are being computed."""
        self._progress[request_id].admitted(self._clock())

    def push(
        self, request_id: str, sampled: Sampled
    ) -> tuple[tuple[PromptScores | Token, ...], Ending | None]:
        """Take its next token; see Progress.push."""
        return self._progress[request_id].push(sampled, self._clock())

    def leave(
        self,
        request_id: str,
        reason: FinishReason,
        ending: Ending | None = None,
        failure: Failure | None = None,
    ) -> Finished:
        """Its terminal event; it is gone then."""
        progress = self._progress.pop(request_id)
        return Finished(
            request_id,
            reason,
            progress.count,
            text=ending.text if ending else "",
            stopped_by=ending.stopped_by if ending else None,
            failure=failure,
            timing=progress.timing(self._clock()),
        )

    def leave_all(self, failure: Failure) -> list[Finished]:
        """Everybody fails for the same reason."""
        return [self.leave(each, FinishReason.FAILED, failure=failure) for each in tuple(self._progress)]
