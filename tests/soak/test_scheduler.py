"""Ten thousand random schedules, each to its end."""

from __future__ import annotations

import random

import pytest

from tests.server.engine.test_scheduler import play

SEEDS = 10_000


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_thousand_schedules_break_no_invariant_and_lose_no_ending() -> None:
    for seed in range(SEEDS):
        chance = random.Random(seed)
        play(
            seed,
            count=chance.randrange(1, 21),
            fail=chance.uniform(0, 0.5),
            cancel=chance.uniform(0, 0.2),
            pin=chance.choice([0.0, 0.0, chance.uniform(0, 0.3)]),
        )
