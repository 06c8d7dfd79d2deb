"""The interval covers a ratio that is known, and uses that both values of a round were slowed alike."""

from __future__ import annotations

import random

import pytest

from lorikeet_bench.interval import ratio_of_medians

KNOWN = 1.3


def noisy_rounds(seed: int, rounds: int = 15) -> tuple[list[float], list[float]]:
    draw = random.Random(seed)
    base = [10 * draw.lognormvariate(0, 0.05) for _ in range(rounds)]
    return [KNOWN * 10 * draw.lognormvariate(0, 0.05) for _ in range(rounds)], base


def test_it_covers_a_known_ratio_about_as_often_as_it_says() -> None:
    intervals = [ratio_of_medians(*noisy_rounds(seed)) for seed in range(60)]
    covered = sum(each.low <= KNOWN <= each.high for each in intervals)
    assert 53 <= covered <= 60
    assert not any(each.low <= 1.0 <= each.high for each in intervals)
    assert all(each.low <= each.value <= each.high for each in intervals)
    assert all(each.high - each.low < 0.3 for each in intervals)


def test_what_slows_a_whole_round_leaves_the_ratio() -> None:
    base = [10.0, 11.0, 30.0, 55.0, 12.0]
    found = ratio_of_medians([KNOWN * value for value in base], base)
    assert (found.value, found.low, found.high) == pytest.approx((KNOWN, KNOWN, KNOWN))


def test_the_same_seed_gives_the_same_interval() -> None:
    above, below = noisy_rounds(1)
    assert ratio_of_medians(above, below, 7) == ratio_of_medians(above, below, 7)
    assert ratio_of_medians(above, below, 7) != ratio_of_medians(above, below, 8)


def test_rounds_must_pair() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio_of_medians([1.0, 2.0], [1.0])
