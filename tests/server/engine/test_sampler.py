"""Sampling against a plain computation per row."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_server.engine.request import Sampling
from lorikeet_server.engine.sampler import Draw, sample, uniform


def draw(index: int = 0, **options: float) -> Draw:
    return Draw(Sampling(max_tokens=1, **options), index)  # type: ignore[arg-type]  # ints among the floats


def plain(logits: list[float], settings: Sampling, index: int) -> int:
    """The same distribution, one token at a time, in double precision."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: settings.top_k or len(logits)]
    weights = [math.exp((logits[token] - logits[order[0]]) / settings.temperature) for token in order]
    probs = [weight / sum(weights) for weight in weights]
    kept: list[tuple[int, float]] = []
    for token, prob in zip(order, probs, strict=True):
        if sum(each for _, each in kept) < settings.top_p:
            kept.append((token, prob))
    target = uniform(settings.seed, index) * sum(prob for _, prob in kept)
    reached = 0.0
    for token, prob in kept:
        reached += prob
        if reached > target:
            return token
    return kept[-1][0]


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.integers(-40, 40), min_size=2, max_size=12, unique=True),
    temperature=st.floats(0.2, 2),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1),
    seed=st.integers(0, 2**62),
    index=st.integers(0, 500),
)
def test_a_batch_draws_what_the_plain_computation_draws(
    logits: list[int], temperature: float, top_k: int, top_p: float, seed: int, index: int
) -> None:
    values = [each / 7 for each in logits]
    chosen = Draw(Sampling(1, temperature, top_k, top_p, seed), index)
    expected = plain(values, chosen.sampling, index)
    # Beside other rows, which must not change anything.
    batch = torch.tensor([values[::-1], values, values])
    rows = sample(batch, [draw(), chosen, draw(temperature=1.0, seed=5)])
    if rows[1].token != expected:  # only where the draw falls on an edge between two tokens
        nudged = {
            plain(values, Sampling(1, temperature, top_k, top_p * (1 + e), seed), index)
            for e in (-1e-5, 1e-5)
        }
        assert rows[1].token in nudged
    assert rows[0].token == values[::-1].index(max(values))


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    counts = Counter(sample(logits, [draw(index, temperature=1.0, seed=3)])[0].token for index in range(4000))
    assert {token: round(count / 4000, 1) for token, count in counts.items()} == {0: 0.6, 1: 0.3, 2: 0.1}


def test_logprob_is_the_models_own_whatever_the_temperature() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    expected = torch.log_softmax(logits, -1)[0]
    for options in ({}, {"temperature": 2.0, "top_k": 1, "seed": 9}):
        (row,) = sample(logits, [draw(**options)])
        assert row.token is not None
        assert math.isclose(row.logprob, float(expected[row.token]), rel_tol=1e-6)


@pytest.mark.parametrize("options", [{"temperature": 1e-50}, {"temperature": 1.0, "top_p": 1e-50}])
def test_values_that_vanish_in_single_precision_choose_the_best_token(options: dict[str, float]) -> None:
    (row,) = sample(torch.tensor([[0.1, 3.0, 2.9]]), [draw(seed=4, **options)])
    assert row.token == 1
    (row,) = sample(torch.tensor([[0.1, 3.0, 2.9]]), [draw(seed=4, top_k=2**63, **options)])
    assert row.token == 1


def test_a_row_that_is_not_finite_yields_no_token_and_leaves_the_others_alone() -> None:
    logits = torch.randn(3, 50)
    expected = [row.token for row in sample(logits, [draw(), draw(temperature=1.0), draw()])]
    for poison in (math.nan, math.inf, -math.inf):
        broken = logits.clone()
        broken[2, 7] = poison
        rows = sample(broken, [draw(), draw(temperature=1.0), draw()])
        assert rows[2].token is None
        assert [row.token for row in rows[:2]] == expected[:2]
