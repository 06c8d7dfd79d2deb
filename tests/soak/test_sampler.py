"""The long form of sampling's proof: many random settings, many draws, each against transformers' processors."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from lorikeet_server.engine.request import Sampling
from tests.chance import counts_of, expected_probs, p_value, row

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
DRAWS = 40_000
SETTINGS = 30
# Of so many right tests one falls below this by chance once in a thousand runs.
IMPLAUSIBLE = 1e-3 / SETTINGS


def some_sampling(chance: random.Random) -> Sampling:
    return Sampling(
        1,
        temperature=chance.uniform(0.3, 2.0),
        top_k=chance.choice([0, 0, 1, 3, 40, 1200]),
        top_p=chance.choice([1.0, 1.0, 0.5, 0.9, 0.99]),
        min_p=chance.choice([0.0, 0.0, 0.02, 0.2]),
        typical_p=chance.choice([1.0, 1.0, 0.3, 0.9]),
        repetition_penalty=chance.choice([1.0, 1.0, 0.8, 1.5]),
        seed=chance.getrandbits(62),
    )


@pytest.mark.parametrize("number", range(SETTINGS))
def test_draws_follow_the_distribution_of_transformers_processors(number: int) -> None:
    chance = random.Random(number)
    size = chance.choice([5, 60, 2500])
    generator = torch.Generator().manual_seed(number)
    logits = torch.randn(size, generator=generator) * chance.choice([0.3, 2.0, 5.0])
    prompt, generated = (0, 1, 1, 4), (2, 3, 2)
    sampling = some_sampling(chance)
    expected = expected_probs(logits, sampling, (*prompt, *generated))
    counts = torch.zeros(size, dtype=torch.long)
    for start in range(0, DRAWS, 2000):
        # A row that looks back is always at the same place; there the seeds make the difference.
        draws = [
            row(replace(sampling, seed=index), generated=generated, prompt=prompt)
            if sampling.looks_back
            else row(sampling, index, prompt=prompt)
            for index in range(start, start + 2000)
        ]
        counts += counts_of(logits, draws)
    assert p_value(counts, expected) > IMPLAUSIBLE
