"""Sampling against transformers' processors on the same logits, and against plain formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_server.engine import truncation
from lorikeet_server.engine.draw import uniform
from lorikeet_server.engine.request import Sampling
from lorikeet_server.engine.sampler import Sampler, inverse
from lorikeet_server.engine.truncation import truncate
from tests.chance import counts_of, expected_probs, p_value, row

DRAWS = 20_000
IMPLAUSIBLE = 1e-3
CUTS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.7},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.5, "typical_p": 0.6},
    {"temperature": 1.2, "top_k": 30, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
]
OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 1, 5, 40]),
        "top_p": st.sampled_from([0.1, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 1.0]),
        "typical_p": st.sampled_from([0.2, 0.9, 1.0]),
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.3]),
        "frequency_penalty": st.sampled_from([-2.0, 0.0, 0.7]),
        "presence_penalty": st.sampled_from([0.0, 2.0]),
        "logit_bias": st.sampled_from([(), ((3, 5.0), (1, -100.0))]),
        "min_tokens": st.sampled_from([0, 9]),
        "logprobs": st.sampled_from([None, 0, 5]),
        "seed": st.integers(0, 2**62),
    }
)


def spread_logits(size: int, seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("options", CUTS, ids=str)
def test_draws_follow_the_distribution_of_transformers_processors(options: dict[str, Any]) -> None:
    logits, sampling = spread_logits(64), Sampling(1, seed=17, **options)
    counts = counts_of(logits, [row(sampling, index) for index in range(DRAWS)])
    assert p_value(counts, expected_probs(logits, sampling)) > IMPLAUSIBLE


def test_the_judge_sees_a_distribution_that_is_a_little_off() -> None:
    logits = spread_logits(64)
    counts = counts_of(logits, [row(Sampling(1, temperature=1.0, seed=17), index) for index in range(DRAWS)])
    assert p_value(counts, expected_probs(logits, Sampling(1, temperature=1.05))) < 1e-6


def test_penalised_draws_follow_the_distribution_of_transformers_processors() -> None:
    logits, prompt, generated = spread_logits(32), (4, 9, 9, 30), (2, 2, 7)
    sampling = Sampling(1, temperature=1.1, top_p=0.9, repetition_penalty=1.4)
    draws = [
        row(replace(sampling, seed=seed), generated=generated, prompt=prompt, name=str(seed))
        for seed in range(DRAWS // 4)
    ]
    counts = counts_of(logits, draws)
    assert p_value(counts, expected_probs(logits, sampling, (*prompt, *generated))) > IMPLAUSIBLE


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([3, 17, 300, 4000]),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    options=st.fixed_dictionaries(
        {
            "temperature": st.floats(0.3, 2),
            "top_k": st.sampled_from([0, 1, 2, 50, 1500]),
            "top_p": st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
            "min_p": st.sampled_from([0.0, 0.01, 0.3]),
            "typical_p": st.sampled_from([0.1, 0.5, 0.95, 1.0]),
        }
    ),
)
def test_what_may_be_drawn_is_what_transformers_leaves(
    seed: int, size: int, spread: float, options: dict[str, Any]
) -> None:
    logits, sampling = spread_logits(size, seed, spread), Sampling(1, **options)
    scores = ((logits - logits.max()) / sampling.temperature)[None]
    truncate(scores, [row(sampling)])
    probs = torch.softmax(scores, -1)[0]
    # A token at the very edge of a cut may fall either way with rounding; it then moves what it weighs.
    expected = expected_probs(logits, sampling)
    differ = (probs > 0) != (expected > 0)
    assert int(differ.sum()) <= 1
    if not bool(differ.any()):
        assert torch.allclose(probs, expected, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    levels=st.lists(st.integers(0, 6), min_size=20, max_size=60),
    candidates=st.integers(1, 20),
    top_k=st.integers(0, 25),
    top_p=st.floats(0.01, 1),
    typical_p=st.floats(0.01, 1),
)
def test_looking_at_a_few_candidates_first_changes_nothing(
    levels: list[int], candidates: int, top_k: int, top_p: float, typical_p: float
) -> None:
    """Few levels, so that many tokens are equally likely."""
    logits = torch.tensor(levels) / 2
    draws = [row(Sampling(1, 1.0, top_k, top_p, typical_p=typical_p))]
    masks = []
    with pytest.MonkeyPatch.context() as patch:
        for number in (candidates, len(levels)):
            patch.setattr(truncation, "CANDIDATES", number)
            scores = (logits - logits.max())[None].clone()
            truncate(scores, draws)
            masks.append(scores[0] > -torch.inf)
    assert masks[0].tolist() == masks[1].tolist()
    if top_k:
        assert 1 <= int(masks[0].sum()) <= top_k


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.integers(0, 3), min_size=1, max_size=500).filter(any),
    u=st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2**-53]),
)
def test_the_inverse_finds_the_token_in_which_the_number_falls(weights: list[int], u: float) -> None:
    probs = torch.tensor(weights).float()
    probs /= probs.sum()
    (token,) = inverse(probs[None], [u]).tolist()
    assert weights[token] > 0
    reached = probs.double().cumsum(0)
    assert reached[token] >= u * reached[-1] - 1e-6
    assert (reached[token - 1] if token else 0.0) <= u * reached[-1] + 1e-6


@settings(max_examples=60, deadline=None)
@given(options=st.lists(OPTIONS, min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_a_row_is_sampled_as_if_it_were_alone(options: list[dict[str, Any]], seed: int) -> None:
    logits = torch.stack([spread_logits(700, seed + place, 3.0) for place in range(len(options))])
    draws = [
        row(Sampling(20, **each), 4, generated=(1, 5, 5, 600), prompt=(2, 3), name=str(place))
        for place, each in enumerate(options)
    ]
    together = Sampler(frozenset({1, 2})).sample(logits, draws)
    for place, draw in enumerate(draws):
        (alone,) = Sampler(frozenset({1, 2})).sample(logits[place : place + 1], [draw])
        assert (alone.token, alone.top) == (together[place].token, together[place].top)
        assert math.isclose(alone.logprob, together[place].logprob, rel_tol=1e-6)


def test_a_tokens_number_depends_on_seed_and_index_alone() -> None:
    assert uniform(5, 0) == uniform(5, 0)
    assert len({uniform(seed, index) for seed in range(20) for index in range(20)}) == 400
    assert all(0 <= uniform(seed, 1) < 1 for seed in (-(2**63), -1, 2**64 - 1))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 2.0, "top_k": 1, "seed": 9}, {"logit_bias": ((2, 50.0),)}], ids=str
)
def test_what_is_told_is_the_models_own_whatever_is_done_to_it(options: dict[str, Any]) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    expected = torch.log_softmax(logits, -1)[0]
    (sampled,) = Sampler().sample(logits, [row(Sampling(1, logprobs=3, **options))])
    assert sampled.token is not None
    assert math.isclose(sampled.logprob, float(expected[sampled.token]), rel_tol=1e-6)
    assert [token for token, _ in sampled.top] == [0, 1, 2]
    assert [value for _, value in sampled.top] == pytest.approx(expected[:3].tolist())


def test_each_row_is_told_as_many_as_it_asks_for() -> None:
    logits = spread_logits(10).expand(4, -1)
    draws = [row(Sampling(1, logprobs=count)) for count in (None, 0, 3, 20)]
    assert [len(each.top) for each in Sampler().sample(logits, draws)] == [0, 0, 3, 10]


@pytest.mark.parametrize("options", [{"temperature": 1e-50}, {"temperature": 1.0, "top_p": 1e-50}])
def test_values_that_vanish_in_single_precision_choose_the_best_token(options: dict[str, float]) -> None:
    for top_k in (0, 2**63):
        sampling = Sampling(1, seed=4, top_k=top_k, **options)
        (sampled,) = Sampler().sample(torch.tensor([[0.1, 3.0, 2.9]]), [row(sampling)])
        assert sampled.token == 1


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_yields_no_token_and_leaves_the_others_alone(poison: float) -> None:
    logits = torch.randn(4, 50)
    everything = Sampling(9, 1.0, 9, 0.9, 3, min_tokens=2, min_p=0.1, typical_p=0.9, logprobs=2)
    everything = replace(everything, presence_penalty=1.0, logit_bias=((1, 2.0),))
    draws = [row(Sampling(1)), row(Sampling(1, 1.0)), row(everything, name="a"), row(everything, name="b")]
    expected = Sampler(frozenset({4})).sample(logits, draws)
    broken = logits.clone()
    broken[2, 7] = poison
    rows = Sampler(frozenset({4})).sample(broken, draws)
    assert rows[2].token is None
    assert [rows[place] for place in (0, 1, 3)] == [expected[place] for place in (0, 1, 3)]


def test_huge_finite_logits_are_no_reason_to_fail() -> None:
    logits = torch.tensor([[3e38, -3e38, 1.0, 3e38]])
    for options in ({"temperature": 1.0}, {"temperature": 2.0, "typical_p": 0.5, "top_p": 0.9}):
        sampling = Sampling(1, repetition_penalty=0.01, frequency_penalty=-2.0, **options)
        (sampled,) = Sampler().sample(logits, [row(sampling, generated=(0,), prompt=(3, 1))])
        assert sampled.token in (0, 3)


def test_a_batch_that_asks_for_nothing_keeps_no_history() -> None:
    sampler = Sampler()
    sampler.sample(torch.randn(2, 9), [row(Sampling(1)), row(Sampling(1, 1.0, min_p=0.1))])
    assert len(sampler._histories) == 0
