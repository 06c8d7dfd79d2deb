"""Bias, penalties and the least length, against transformers and OpenAI's formula."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from lorikeet_server.engine.history import Histories
from lorikeet_server.engine.request import Sampling
from lorikeet_server.engine.shaping import shaped
from tests.chance import row

SIZE = 24
tokens = st.lists(st.integers(0, SIZE - 1), max_size=12)


def logits_of(seed: int) -> torch.Tensor:
    return torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed)) * 3


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), prompt=tokens.filter(bool), generated=tokens, penalty=st.floats(0.1, 5))
def test_the_repetition_penalty_is_that_of_transformers(
    seed: int, prompt: list[int], generated: list[int], penalty: float
) -> None:
    logits = logits_of(seed)
    draw = row(Sampling(99, repetition_penalty=penalty), generated=generated, prompt=tuple(prompt))
    ours = shaped(logits, [draw], Histories(), frozenset())
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + generated]), logits)
    assert torch.allclose(ours, theirs)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1000),
    prompt=tokens.filter(bool),
    generated=tokens,
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
)
def test_frequency_and_presence_penalties_are_openais_formula_over_the_answer(
    seed: int, prompt: list[int], generated: list[int], frequency: float, presence: float
) -> None:
    logits = logits_of(seed)
    sampling = Sampling(99, frequency_penalty=frequency, presence_penalty=presence)
    ours = shaped(
        logits, [row(sampling, generated=generated, prompt=tuple(prompt))], Histories(), frozenset()
    )
    counts = Counter(generated)
    for token in range(SIZE):
        penalty = counts[token] * frequency + (counts[token] > 0) * presence
        assert float(ours[0, token]) == pytest.approx(float(logits[0, token]) - penalty, abs=1e-5)


def test_a_history_kept_up_step_by_step_is_the_one_made_at_once() -> None:
    sampling = Sampling(99, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=-0.2)
    histories, generated = Histories(), [3, 3, 8, 21, 3, SIZE + 5, 8, 0]
    for length in range(len(generated) + 1):
        draw = row(sampling, generated=generated[:length], prompt=(8, 1, SIZE + 9))
        logits = logits_of(length)
        at_once = shaped(logits, [draw], Histories(), frozenset())
        assert torch.equal(shaped(logits, [draw], histories, frozenset()), at_once)
        if length == 5:
            histories.forget(draw.request.id)  # as a preemption does
    assert len(histories) == 1


@settings(max_examples=50, deadline=None)
@given(bias=st.dictionaries(st.integers(0, SIZE - 1), st.floats(-100, 100), min_size=1))
def test_a_bias_is_added_as_transformers_adds_it(bias: dict[int, float]) -> None:
    logits = logits_of(1)
    ours = shaped(logits, [row(Sampling(1, logit_bias=tuple(bias.items())))], Histories(), frozenset())
    theirs = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    assert torch.allclose(ours, theirs(torch.tensor([[0]]), logits), atol=1e-5)


@pytest.mark.parametrize("index", [0, 2, 3, 9])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_what_ends_an_answer_is_ruled_out_until_its_least_length(index: int, ignore_eos: bool) -> None:
    logits, stops = logits_of(2), {4, 7}
    sampling = Sampling(
        9, min_tokens=3, stop_token_ids=frozenset({7, SIZE, -1, -(10**30), 10**30}), ignore_eos=ignore_eos
    )
    ours = shaped(logits, [row(sampling, index)], Histories(), frozenset({4}))
    banned = sorted(stops - {4} if ignore_eos else stops)
    theirs = MinNewTokensLengthLogitsProcessor(1, 3, banned)(torch.zeros(1, 1 + index).long(), logits)
    assert torch.equal(ours, theirs)


def test_what_ends_an_answer_stays_where_nothing_else_is_left() -> None:
    logits = torch.full((2, SIZE), -torch.inf)
    logits[0, 4] = logits[1, 4] = logits[1, 5] = 1.0
    draws = [row(Sampling(9, min_tokens=3))] * 2
    ours = shaped(logits, draws, Histories(), frozenset({4}))
    assert ours[0, 4] == 1.0
    assert (ours[1, 4], ours[1, 5]) == (-torch.inf, 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": ((2, 1.0),)},
        {"repetition_penalty": 2.0},
        {"presence_penalty": 1.0},
        {"min_tokens": 5},
    ],
    ids=str,
)
def test_only_the_rows_that_ask_are_changed(options: dict[str, Any]) -> None:
    logits = torch.randn(3, SIZE)
    before = logits.clone()
    draws = [row(Sampling(9)), row(Sampling(9, **options), prompt=(1, 2), generated=(3,)), row(Sampling(9))]
    ours = shaped(logits, draws, Histories(), frozenset({4}))
    assert torch.equal(logits, before), "what the model computed stays as it is"
    assert torch.equal(ours[[0, 2]], before[[0, 2]])
    assert not torch.equal(ours[1], before[1])
    assert shaped(logits, [draws[0]] * 3, Histories(), frozenset({4})) is logits
