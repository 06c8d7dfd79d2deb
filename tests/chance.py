"""Statistics that judge a sampler, and transformers' own processors as the oracle of its distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from lorikeet_server.engine.draw import Draw
from lorikeet_server.engine.request import Request, Sampling
from lorikeet_server.engine.sampler import Sampler

LEAST_EXPECTED = 5.0  # draws a cell of the chi-square test needs at least


def row(
    sampling: Sampling,
    index: int = 0,
    *,
    generated: Sequence[int] = (),
    prompt: tuple[int, ...] = (0,),
    name: str = "r",
) -> Draw:
    """What the sampler is told of a request; where it looks back, `generated` says the index."""
    if sampling.looks_back:
        index = len(generated)
    return Draw(Request(name, prompt, sampling), index, tuple(generated))


def processors(sampling: Sampling) -> LogitsProcessorList:
    """transformers' for these options, in the order in which generate() applies them."""
    made: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        made.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    made.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        made.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        made.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        made.append(MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p < 1:
        made.append(TypicalLogitsWarper(sampling.typical_p))
    return LogitsProcessorList(made)


def expected_probs(logits: torch.Tensor, sampling: Sampling, tokens: Sequence[int] = (0,)) -> torch.Tensor:
    """probs[V] of the next token by transformers, for logits[V] after these tokens."""
    scores = processors(sampling)(torch.tensor([list(tokens)]), logits[None].clone())
    return torch.softmax(scores, -1)[0]


def counts_of(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """How often each token of logits[V] was drawn."""
    sampled = Sampler().sample(logits.expand(len(draws), -1), draws)
    tokens = torch.tensor([each.token for each in sampled])
    return torch.bincount(tokens, minlength=logits.shape[-1])


def p_value(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """Pearson's chi-square test: how probable counts[V] at least as far off are if probs[V] are right.

    Cells too small for the test are taken together; 0 when something impossible was drawn.
    """
    if bool(counts[probs == 0].any()):
        return 0.0
    expected = probs.double() / probs.double().sum() * counts.sum()
    small = expected < LEAST_EXPECTED
    seen = torch.cat((counts[~small].double(), counts[small].sum()[None].double()))
    wanted = torch.cat((expected[~small], expected[small].sum()[None]))
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    if freedom == 0:
        return 1.0
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor(freedom / 2).double(), statistic / 2))
