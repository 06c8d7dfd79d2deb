"""How likely the model holds the tokens of a prompt to be, gathered while the prompt is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorikeet_server.engine.request import Request, Score, Top
from lorikeet_server.engine.sampler import most_likely

# Positions whose logits are held at once: a prompt that is scored is computed in pieces of so many.
PIECE = 64


class Scorer:
    """The scores of prompts under way, by request."""

    def __init__(self) -> None:
        self._scores: dict[str, list[Score]] = {}

    def add(self, request: Request, start: int, logits: torch.Tensor) -> None:
        """logits[T, V] of the prompt's tokens from `start` on: each says how likely the one after it is."""
        scores = self._scores.setdefault(request.id, [])
        assert len(scores) == start, "pieces follow one another"
        following = request.prompt[start + 1 : start + 1 + logits.shape[0]]
        scores.extend(_scored(logits[: len(following)], following, request.sampling.prompt_logprobs or 0))

    def take(self, request_id: str) -> tuple[Score, ...]:
        """All of them: the prompt is computed."""
        return tuple(self._scores.pop(request_id))

    def forget(self, request_id: str) -> None:
        self._scores.pop(request_id, None)

    def clear(self) -> None:
        self._scores.clear()


def _scored(logits: torch.Tensor, tokens: Sequence[int], count: int) -> list[Score]:
    """A score for each of the tokens[T], of logits[T, V]."""
    if not tokens:
        return []
    logprobs = torch.log_softmax(logits.float(), -1)
    own = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])
    ranks = (logprobs > own).sum(-1) + 1
    tops: list[Top] = most_likely(logprobs, count) if count else [()] * len(tokens)
    rows = zip(tokens, own[:, 0].tolist(), ranks.tolist(), tops, strict=True)
    return [Score(*row) for row in rows]
