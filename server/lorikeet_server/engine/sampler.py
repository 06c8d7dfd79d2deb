"""From logits to the next token of every row, in one batch.

What a row's guide forbids is masked (guides.py), its logits are shaped (shaping.py), then the best is taken or, where there is a temperature, one is
drawn: the logits are divided by it, cut off (truncation.py), and the token is the first at which the
cumulative distribution, in the order of the ids, exceeds the row's random number. What is told of the
tokens' likelihood is the model's own, before all that. A row pays for the options it has: a greedy
batch is an argmax and a log-softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorikeet_server.engine.batch import Sampled
from lorikeet_server.engine.draw import Draw, uniform
from lorikeet_server.engine.guides import masked
from lorikeet_server.engine.history import Histories
from lorikeet_server.engine.request import Top
from lorikeet_server.engine.shaping import shaped
from lorikeet_server.engine.truncation import truncate

COLDEST = 1e-5  # a lower temperature would overflow single precision
BLOCK = 128  # tokens; most vocabularies are multiples of it


class Sampler:
    """`eos` are the tokens that end the base's answers."""

    def __init__(self, eos: frozenset[int] = frozenset()) -> None:
        self._eos = eos
        self._histories = Histories()

    def sample(self, logits: torch.Tensor, draws: Sequence[Draw]) -> list[Sampled]:
        """Choose a token for each row of logits[B, V].

        A row whose logits are not finite yields no token and does not disturb the others.
        """
        logits = logits.float()
        finite = torch.isfinite(logits.amax(-1)) & torch.isfinite(logits.amin(-1))
        if not bool(finite.all()):
            logits = torch.where(finite[:, None], logits, 0.0)
        tokens = self._choose(logits, draws)
        logprobs = torch.log_softmax(logits, -1)
        own = logprobs.gather(-1, tokens[:, None])[:, 0]
        rows = zip(finite.tolist(), tokens.tolist(), own.tolist(), _top(logprobs, draws), strict=True)
        return [
            Sampled(token if is_finite else None, logprob, top) for is_finite, token, logprob, top in rows
        ]

    def forget(self, request_id: str) -> None:
        """The request has left; if it comes back, its draws say what it had generated."""
        self._histories.forget(request_id)

    def clear(self) -> None:
        self._histories.clear()

    def _choose(self, logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        scores = masked(logits, [draw.allowed for draw in draws])
        scores = shaped(scores, draws, self._histories, self._eos)
        tokens = scores.argmax(-1)
        drawn = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
        if drawn:
            tokens[drawn] = _draw(scores[drawn], [draws[row] for row in drawn])
        return tokens


def _draw(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """A token for each row of scores[n, V], all of which have a temperature."""
    temperatures = [max(draw.sampling.temperature, COLDEST) for draw in draws]
    scores = scores - scores.amax(-1, keepdim=True)
    scores /= torch.tensor(temperatures, device=scores.device)[:, None]
    truncate(scores, draws)
    u = [uniform(draw.sampling.seed, draw.index) for draw in draws]
    return inverse(torch.softmax(scores, -1), u)


def inverse(probs: torch.Tensor, u: Sequence[float]) -> torch.Tensor:
    """For each row of probs[n, V] the first token at which the cumulative distribution exceeds u[n].

    Such a token has a probability above 0: the distribution grows there. It is found by blocks, because
    a cumulative sum over a whole vocabulary costs many times as much as its sum.
    """
    missing = -probs.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(probs, (0, missing)) if missing else probs
    blocks = padded.view(len(probs), -1, BLOCK)
    edges = blocks.sum(-1).double().cumsum(-1)
    # One block's edge always exceeds it: u is at most 1 - 2**-53, and its product with a double is less
    # than that double even after rounding.
    target = torch.tensor(u, dtype=torch.float64, device=probs.device)[:, None] * edges[:, -1:]
    block = torch.searchsorted(edges, target, right=True)
    before = torch.where(block > 0, edges.gather(-1, (block - 1).clamp_(min=0)), 0.0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    place = torch.searchsorted(inside, target - before, right=True)
    last = torch.searchsorted(inside, inside[:, -1:].contiguous())  # where the two sums round differently
    return (block * BLOCK + torch.minimum(place, last))[:, 0]


def _top(logprobs: torch.Tensor, draws: Sequence[Draw]) -> list[Top]:
    """The most likely tokens of each row that asks for them."""
    told: list[Top] = [()] * len(draws)
    rows = [row for row, draw in enumerate(draws) if draw.sampling.logprobs]
    if rows:
        found = most_likely(logprobs[rows], max(draws[row].sampling.logprobs or 0 for row in rows))
        for row, top in zip(rows, found, strict=True):
            told[row] = top[: draws[row].sampling.logprobs]
    return told


def most_likely(logprobs: torch.Tensor, count: int) -> list[Top]:
    """For each row of logprobs[n, V] its `count` largest with their tokens, or all there are."""
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [tuple(zip(tokens, own, strict=True)) for tokens, own in pairs]
