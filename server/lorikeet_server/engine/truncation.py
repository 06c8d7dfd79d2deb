"""Which tokens a row may draw: top_k, top_p, min_p and typical_p, in the order of transformers' generate().

No row is sorted whole unless it must be: a vocabulary of 150,000 tokens takes 20 ms a row to sort and
1 ms to take the first thousand of, which nearly always hold all that is kept. What a row keeps is the
same either way, so it depends on that row alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from lorikeet_server.engine.draw import Draw
from lorikeet_server.engine.request import Sampling

CANDIDATES = 1024
LEAST = 1e-6  # a share below it would be lost in single precision


def truncate(scores: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Rule out in scores[n, V], whose maxima are 0, what each row may not draw. At least one token stays."""
    _cut(scores, draws, _ranks, _by_rank)
    _cut(scores, draws, lambda sampling: sampling.min_p > 0, _by_best)
    _cut(scores, draws, lambda sampling: sampling.typical_p < 1, _by_typicality)


def _cut(
    scores: torch.Tensor,
    draws: Sequence[Draw],
    wants: Callable[[Sampling], bool],
    keep: Callable[[torch.Tensor, Sequence[Sampling]], torch.Tensor],
) -> None:
    rows = [row for row, draw in enumerate(draws) if wants(draw.sampling)]
    if rows:
        own = scores[rows]
        kept = keep(own, [draws[row].sampling for row in rows])
        scores[rows] = own.masked_fill(~kept, -torch.inf)


def _ranks(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1


def _by_rank(scores: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """top_k, and top_p of what that leaves."""
    size = scores.shape[-1]
    count = _column(scores, [float(min(each.top_k or size, size)) for each in samplings])
    mass = _column(scores, [max(each.top_p, LEAST) if each.top_p < 1 else math.inf for each in samplings])
    return leading(scores, torch.softmax(scores, -1), count, mass)


def _by_best(scores: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """min_p: at least this share of the probability of the most likely, whose score is 0."""
    return scores >= _column(scores, [math.log(each.min_p) for each in samplings])


def _by_typicality(scores: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """typical_p: those whose information is nearest to the entropy (Meister et al., arXiv 2202.00666)."""
    logprobs = torch.log_softmax(scores, -1)
    probs = logprobs.exp()
    entropy = torch.special.entr(probs).sum(-1, keepdim=True)
    count = _column(scores, [float(scores.shape[-1])] * len(samplings))
    mass = _column(scores, [max(each.typical_p, LEAST) for each in samplings])
    return leading(-(logprobs + entropy).abs(), probs, count, mass)


def leading(keys: torch.Tensor, probs: torch.Tensor, count: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Mask[n, V] of the tokens that come first by keys[n, V], of equal ones the lower id.

    At most count[n, 1] of them; and only as long as those before have less than the share mass[n, 1]
    of what the first `count` have of probs[n, V], which sum to 1. The first always stays.
    """
    size = keys.shape[-1]
    kept, is_settled = _leading_of(keys, probs, count, mass, min(CANDIDATES, size))
    if not bool(is_settled.all()):
        rest = ~is_settled
        kept[rest], _ = _leading_of(keys[rest], probs[rest], count[rest], mass[rest], size)
    return kept


def _leading_of(
    keys: torch.Tensor, probs: torch.Tensor, count: torch.Tensor, mass: torch.Tensor, candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask, and for which rows so many candidates were enough to tell."""
    size = keys.shape[-1]
    ordered, ids = _ordered(keys, candidates)
    within = torch.arange(candidates, device=keys.device) < count
    shares = torch.where(within, probs.gather(-1, ids), 0.0).double()
    reached = shares.cumsum(-1)
    total = torch.where(count < size, reached[:, -1:], 1.0)
    stays = within & (reached - shares < mass * total)
    last = ordered.gather(-1, stays.sum(-1, keepdim=True) - 1)
    edge = ordered[:, -1:]
    # All that could stay was there to be seen: what lies beyond the candidates comes after the last kept,
    # or cannot be drawn at all; and the total is known.
    is_settled = ((last > edge) | (edge == -torch.inf)) & ((count <= candidates) | (count == size))
    mask = torch.zeros_like(keys, dtype=torch.bool).scatter_(-1, ids, stays)
    return mask, is_settled[:, 0] | (candidates == size)


def _ordered(keys: torch.Tensor, candidates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest keys and their ids, the larger first, of equal ones the lower id."""
    if candidates == keys.shape[-1]:
        return keys.sort(stable=True, dim=-1, descending=True)
    ids = keys.topk(candidates, sorted=False).indices.sort(-1).values
    ordered, order = keys.gather(-1, ids).sort(stable=True, dim=-1, descending=True)
    return ordered, ids.gather(-1, order)


def _column(like: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, device=like.device)[:, None]
