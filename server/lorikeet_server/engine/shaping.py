"""What a request adds to and takes from its logits before a token is chosen, also where that is greedy.

In this order, which is that of transformers' generate(), with OpenAI's penalties, which it has not,
behind the repetition penalty:

1. `logit_bias` is added;
2. `repetition_penalty` divides a positive logit and multiplies a negative one of every token in prompt
   or answer;
3. `frequency_penalty` is subtracted as often as the answer has the token, `presence_penalty` once when
   the answer has it;
4. before `min_tokens` the tokens that would end the answer are ruled out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lorikeet_server.engine.draw import Draw
from lorikeet_server.engine.history import Histories


def shaped(
    logits: torch.Tensor, draws: Sequence[Draw], histories: Histories, eos: frozenset[int]
) -> torch.Tensor:
    """logits[B, V], finite, as each row's sampling wants them: a copy where any wants something."""
    biased = _rows(draws, lambda draw: bool(draw.sampling.logit_bias))
    penalised = _rows(draws, lambda draw: draw.sampling.looks_back)
    kept_open = _rows(draws, lambda draw: draw.index < draw.sampling.min_tokens)
    if not (biased or penalised or kept_open):
        return logits
    scores = logits.clone()
    if biased:
        _bias(scores, biased, draws)
    if penalised:
        _penalise(scores, penalised, draws, histories)
    if kept_open:
        _keep_open(scores, kept_open, draws, eos)
    return scores.clamp_(max=torch.finfo(scores.dtype).max)  # a penalty below 1 may lift one to infinity


def _rows(draws: Sequence[Draw], wants: Callable[[Draw], bool]) -> list[int]:
    return [row for row, draw in enumerate(draws) if wants(draw)]


def _bias(scores: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> None:
    known = range(scores.shape[-1])
    terms = [
        (row, token, bias) for row in rows for token, bias in draws[row].sampling.logit_bias if token in known
    ]
    at = torch.tensor([term[:2] for term in terms], dtype=torch.long, device=scores.device).view(-1, 2)
    values = torch.tensor([bias for _, _, bias in terms], device=scores.device)
    scores.index_put_(at.unbind(1), values, accumulate=True)


def _penalise(scores: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw], histories: Histories) -> None:
    """Only the tokens a row has seen are touched."""
    for row in rows:
        sampling, history = draws[row].sampling, histories.of(draws[row], scores)
        own = scores[row, history.ids]
        own = torch.where(own < 0, own * sampling.repetition_penalty, own / sampling.repetition_penalty)
        own -= sampling.frequency_penalty * history.counts + sampling.presence_penalty * (history.counts > 0)
        scores[row, history.ids] = own


def _keep_open(scores: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw], eos: frozenset[int]) -> None:
    """Rule out what ends a row, except where nothing else would be left."""
    known = range(scores.shape[-1])
    places = [(row, token) for row in rows for token in draws[row].sampling.ends(eos) if token in known]
    row_of, ids = torch.tensor(places, dtype=torch.long, device=scores.device).view(-1, 2).unbind(1)
    before = scores[row_of, ids]
    scores[row_of, ids] = -torch.inf
    is_empty = scores.amax(-1)[row_of] == -torch.inf
    scores[row_of, ids] = torch.where(is_empty, before, -torch.inf)
