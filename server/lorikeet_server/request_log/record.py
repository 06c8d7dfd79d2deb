"""One request and its answer as they are kept, and which of them are meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Rating(StrEnum):
    UP = "up"
    DOWN = "down"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Share:
    """A generation of the mix that answered, and its weight."""

    generation: str
    weight: float


@dataclass(frozen=True, slots=True)
class Record:
    """Either `messages` or `prompt` is there. `tenant` is empty for the operator, `key` where there are no keys.

    `created` is when the answer was complete, in seconds since the epoch; `total_s` how long it took.
    """

    id: str
    created: float
    tenant: str
    key: str
    route: str
    model: str
    mix: tuple[Share, ...]
    messages: tuple[Mapping[str, str], ...] | None
    prompt: str | None
    answer: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    total_s: float
    rating: Rating = Rating.NONE
    correction: str = ""

    @property
    def size(self) -> int:
        """Bytes of its texts in UTF-8."""
        texts = [self.prompt or "", self.answer, self.correction]
        texts += [each["content"] for each in self.messages or ()]
        return sum(len(each.encode()) for each in texts)


@dataclass(frozen=True, slots=True)
class Selection:
    """Those that fit all that is said; `text` occurs in the prompt or the answer, whatever the case of its letters."""

    ids: tuple[str, ...] | None = None
    text: str = ""
    model: str | None = None
    rating: Rating | None = None
