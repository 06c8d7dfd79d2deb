"""From answers to numbers. No model in here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BASE = "base"  # how the empty mix is called in a report


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer beside its reference. `logprobs` are the reference's tokens', teacher-forced."""

    answer: str
    reference: str
    stopped: bool
    logprobs: tuple[float, ...]

    @property
    def is_exact(self) -> bool:
        return self.answer.strip() == self.reference.strip()


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares are from 0 to 1. `json_validity` is None unless every reference is JSON.

    `logprob` is the mean over all reference tokens, end of turn included, in nats; `perplexity` is
    exp(-logprob). `stop_rate` is the share of answers that ended by themselves.
    """

    name: str
    rows: int
    exact_match: float
    json_validity: float | None
    logprob: float
    perplexity: float
    stop_rate: float


def score(name: str, judged: Sequence[Judged]) -> Scores:
    """Raises ValueError for no answers: a share of nothing is no number."""
    if not judged:
        raise ValueError("there is nothing to score")
    tokens = [value for each in judged for value in each.logprobs]
    logprob = sum(tokens) / len(tokens)
    wants_json = all(is_json(each.reference) for each in judged)
    return Scores(
        name=name,
        rows=len(judged),
        exact_match=share(each.is_exact for each in judged),
        json_validity=share(is_json(each.answer) for each in judged) if wants_json else None,
        logprob=logprob,
        perplexity=math.exp(-logprob),
        stop_rate=share(each.stopped for each in judged),
    )


def share(hits: Iterable[bool]) -> float:
    counted = list(hits)
    return sum(counted) / len(counted)


def is_json(text: str) -> bool:
    """An object or an array: a bare number or word parses too, but nobody means JSON by it."""
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):
        return False
