"""From logits to the next token of every row, in one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorikeet_server.engine.batch import Sampled
from lorikeet_server.engine.guides import masked
from lorikeet_server.engine.request import Sampling

LEAST = 1e-5


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is sampled, and which of the request's tokens this is. `allowed` is a guide's mask."""

    sampling: Sampling
    index: int
    allowed: bytes | None = None


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that depends on seed and index alone, so on no batch and no device."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Sampled]:
    """Choose a token for each row of logits[B, V].

    The log-probability is that of the model's own distribution, before masks, temperature and cut-offs.
    A row whose logits are not finite yields no token and does not disturb the others.
    """
    logits = logits.float()
    finite = torch.isfinite(logits).all(-1)
    safe = torch.where(finite[:, None], logits, 0.0)
    choosable = masked(safe, [draw.allowed for draw in draws])
    tokens = choosable.argmax(-1)
    drawn = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if drawn:
        tokens[drawn] = _draw(choosable[drawn], [draws[row] for row in drawn])
    logprobs = torch.log_softmax(safe, -1).gather(-1, tokens[:, None])[:, 0]
    rows = zip(finite.tolist(), tokens.tolist(), logprobs.tolist(), strict=True)
    return [Sampled(token if is_finite else None, logprob) for is_finite, token, logprob in rows]


def _draw(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Temperature, then top-k, then top-p, then the inverse of the cumulative distribution at u."""

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    # The bounds keep what fp32 would round to zero from leaving no token at all.
    temperature = column([max(draw.sampling.temperature, LEAST) for draw in draws])
    top_k = column([min(draw.sampling.top_k or logits.shape[-1], logits.shape[-1]) for draw in draws])
    top_p = column([max(draw.sampling.top_p, LEAST) for draw in draws])
    u = column([uniform(draw.sampling.seed, draw.index) for draw in draws])
    ordered, ids = logits.sort(stable=True, dim=-1, descending=True)
    ordered = torch.where(torch.arange(logits.shape[-1], device=logits.device) < top_k, ordered, -torch.inf)
    probs = torch.softmax((ordered - ordered[:, :1]) / temperature, -1)
    # A token stays while what precedes it has not reached top_p, so the first one always stays.
    probs = torch.where(probs.cumsum(-1) - probs < top_p, probs, 0.0)
    cumulative = probs.cumsum(-1)
    chosen = (cumulative <= u * cumulative[:, -1:]).sum(-1, keepdim=True)
    last_kept = (probs > 0).sum(-1, keepdim=True) - 1
    token: torch.Tensor = ids.gather(-1, torch.minimum(chosen, last_kept))[:, 0]
    return token
