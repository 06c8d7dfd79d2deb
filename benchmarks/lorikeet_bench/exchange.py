"""What came of one request: the stamped lines of its stream, and what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DONE = "[DONE]"
SHOWN = 80  # characters of a line that cannot be read


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it; all times in seconds on one clock.

    It is measured from `due`, when it should have been sent: a client that is late sends later, and
    what its server's users would have waited is no shorter for it. `arrivals` are the moments at which
    pieces with text came, `finished` when the last token was told; `tokens` is the server's own count,
    or the number of pieces where it gives none. `error` is empty when the answer is whole.
    """

    model: str
    due: float
    sent: float
    ended: float
    arrivals: tuple[float, ...] = ()
    finished: float = 0.0
    input_tokens: int = 0
    cached_tokens: int | None = None  # of the prompt, from an earlier one; None where the server does not say
    tokens: int = 0
    counted: bool = False
    error: str = ""

    @property
    def send_lag(self) -> float:
        return self.sent - self.due

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.due

    @property
    def e2e(self) -> float:
        return self.finished - self.due

    @property
    def tpot(self) -> float | None:
        """Mean time between tokens after the first text. Several tokens may come in one piece, and
        some have no text; of an answer whose text came in one piece there is nothing to tell.
        """
        if len(self.arrivals) < 2 or self.tokens < 2:
            return None
        return (self.finished - self.arrivals[0]) / (self.tokens - 1)

    @property
    def gaps(self) -> tuple[float, ...]:
        """Times between pieces of text as the client saw them, one less than there are pieces."""
        return tuple(b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False))


@dataclass(frozen=True, slots=True)
class Recording:
    """One request as it passed, not yet read; `error` is what the transport or the status said."""

    model: str
    due: float
    sent: float
    ended: float
    lines: Sequence[tuple[float, str]]
    error: str = ""

    def read(self) -> Exchange:
        """A stream without an ending, or with a line that nobody can read, is an error."""
        arrivals: list[float] = []
        finished, error = 0.0, self.error
        usage: Mapping[str, Any] = {}
        for stamp, line in self.lines:
            if line == DONE:
                continue
            said = _read(line)
            error = error or said.error
            usage = said.usage or usage
            finished = stamp if said.finishes else finished
            if said.has_text:
                arrivals.append(stamp)
        if not error and not (finished and arrivals):
            error = "the stream ended without a finish_reason" if arrivals else "the answer has no text"
        counted = _count(usage, "completion_tokens")
        return Exchange(
            self.model,
            self.due,
            self.sent,
            self.ended,
            tuple(arrivals),
            finished,
            _count(usage, "prompt_tokens") or 0,
            _count(usage.get("prompt_tokens_details"), "cached_tokens"),
            len(arrivals) if counted is None else counted,
            counted is not None,
            error,
        )


@dataclass(frozen=True, slots=True)
class _Said:
    """One line."""

    has_text: bool = False
    finishes: bool = False
    usage: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def _read(line: str) -> _Said:
    try:
        event = json.loads(line)
        if event.get("error") is not None:
            return _Said(error=_reason(event["error"]))
        choices = event.get("choices", ())
        return _Said(
            has_text=any(choice.get("text") for choice in choices),
            finishes=any(choice.get("finish_reason") is not None for choice in choices),
            usage=dict(event.get("usage") or {}),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return _Said(error=f"a line of the stream cannot be read: {line[:SHOWN]!r}")


def _reason(error: object) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _count(told: object, name: str) -> int | None:
    found = told.get(name) if isinstance(told, Mapping) else None
    return found if isinstance(found, int) else None
