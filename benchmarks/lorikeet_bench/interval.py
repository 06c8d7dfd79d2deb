"""How far a median, or a ratio of two, can be trusted: a bootstrap, paired where the runs were interleaved."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

RESAMPLES = 4000
CONFIDENCE = 0.95
Round = TypeVar("Round")


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the bounds of its 95 % percentile interval."""

    value: float
    low: float
    high: float


def bootstrap(
    rounds: Sequence[Round], statistic: Callable[[Sequence[Round]], float], seed: int = 0
) -> Interval:
    """`statistic` of `rounds`, and how it varies when as many rounds are drawn from them with replacement.

    Whole rounds are drawn: what slows a round slows all that was measured in it, and leaves what they
    are to each other. With five rounds the bounds are close to the extremes of what was seen.
    """
    draw = random.Random(seed)
    found = sorted(statistic(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return _interval(statistic(rounds), found)


def medians(rounds: Sequence[tuple[float, ...]]) -> list[float]:
    """Of each of the things that were measured in every round."""
    return [median(each) for each in zip(*rounds, strict=True)]


def median_of(values: Sequence[float], seed: int = 0) -> Interval:
    return bootstrap(values, median, seed)


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Interval:
    """Entry i of both sequences comes from the same round of an interleaved run."""
    return bootstrap(list(zip(numerator, denominator, strict=True)), _ratio, seed)


def ratio_apart(
    numerator: Sequence[float],
    denominator: Sequence[float],
    statistic: Callable[[Sequence[float]], float] = median,
    seed: int = 0,
) -> Interval:
    """Of a statistic of two that were measured in different runs: each is drawn from by itself."""
    draw = random.Random(seed)
    ratios = sorted(
        statistic(draw.choices(numerator, k=len(numerator)))
        / statistic(draw.choices(denominator, k=len(denominator)))
        for _ in range(RESAMPLES)
    )
    return _interval(statistic(numerator) / statistic(denominator), ratios)


def _interval(value: float, ordered: Sequence[float]) -> Interval:
    tail = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Interval(value, ordered[tail], ordered[-1 - tail])


def _ratio(rounds: Sequence[tuple[float, float]]) -> float:
    return median(above for above, _ in rounds) / median(below for _, below in rounds)
