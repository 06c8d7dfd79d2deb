"""How far a ratio of medians can be trusted: a bootstrap, paired where the runs were interleaved."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """median(numerator) / median(denominator) and the bounds of its 95 % percentile interval."""

    ratio: float
    low: float
    high: float


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Interval:
    """Entry i of both sequences comes from the same round of an interleaved run.

    Whole rounds are drawn, with replacement: what slows a round slows both its entries, and leaves
    the ratio. With five rounds the bounds are close to the extremes of what was seen.
    """
    rounds = list(zip(numerator, denominator, strict=True))
    draw = random.Random(seed)
    ratios = sorted(_ratio(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return _interval(_ratio(rounds), ratios)


def ratio_of_medians_apart(
    numerator: Sequence[float], denominator: Sequence[float], seed: int = 0
) -> Interval:
    """The two were measured in different runs: each is drawn from by itself."""
    draw = random.Random(seed)
    ratios = sorted(
        median(draw.choices(numerator, k=len(numerator)))
        / median(draw.choices(denominator, k=len(denominator)))
        for _ in range(RESAMPLES)
    )
    return _interval(median(numerator) / median(denominator), ratios)


def _interval(ratio: float, ordered: Sequence[float]) -> Interval:
    tail = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Interval(ratio, ordered[tail], ordered[-1 - tail])


def _ratio(rounds: Sequence[tuple[float, float]]) -> float:
    return median(above for above, _ in rounds) / median(below for _, below in rounds)
