"""The guides of running requests, and their masks on the logits. Lives on the engine's thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from lorikeet_server.engine.batch import Sampled
from lorikeet_server.engine.constraint import Guide, Stuck
from lorikeet_server.engine.failures import constraint_failed
from lorikeet_server.engine.request import Failure, Request


@dataclass(slots=True)
class _Guided:
    guide: Guide
    failure: Failure | None = None


class Guides:
    """One guide for each request that has a grammar, from its first token to its end.

    A preempted request keeps its guide: the tokens it computes again are those the guide has seen.
    """

    def __init__(self) -> None:
        self._guided: dict[str, _Guided] = {}

    def __len__(self) -> int:
        return len(self._guided)

    def allowed(self, request: Request) -> bytes | None:
        """The mask of its next token; None leaves every token, as for a request without a grammar."""
        if request.grammar is None:
            return None
        guided = self._guided.get(request.id)
        if guided is None:
            guided = self._guided[request.id] = _Guided(request.grammar.begin())
        try:
            return guided.guide.allowed()
        except Stuck as stuck:
            guided.failure = constraint_failed(str(stuck))
            return None

    def follow(self, request: Request, sampled: Sampled) -> Sampled:
        """The guide takes the sampled token; a guide that cannot go on fails its request."""
        guided = self._guided.get(request.id)
        if guided is None or sampled.token is None:
            return sampled
        try:
            if guided.failure is None:
                guided.guide.accept(sampled.token)
        except Stuck as stuck:
            guided.failure = constraint_failed(str(stuck))
        return sampled if guided.failure is None else replace(sampled, token=None, failure=guided.failure)

    def drop(self, request_id: str) -> None:
        """The request is over."""
        self._guided.pop(request_id, None)


def masked(logits: torch.Tensor, masks: Sequence[bytes | None]) -> torch.Tensor:
    """logits[B, V] with minus infinity wherever a row's mask forbids the token; rows without one as they are."""
    rows = [row for row, mask in enumerate(masks) if mask is not None]
    if not rows:
        return logits
    packed = torch.frombuffer(bytearray(b"".join(masks[row] or b"" for row in rows)), dtype=torch.uint8)
    eights = _penalties(logits.device).index_select(0, packed.to(logits.device).int())
    penalties = eights.view(len(rows), -1)[:, : logits.shape[-1]]
    assert penalties.shape[1] == logits.shape[-1], "a mask is made for every logit"
    return logits.index_add(0, torch.tensor(rows, device=logits.device), penalties)


@cache
def _penalties(device: torch.device) -> torch.Tensor:
    """For each byte of a mask what its eight tokens' logits get: nothing, or minus infinity. Ten times
    quicker than to fill by a mask of booleans."""
    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return torch.where(bits == 1, 0.0, -torch.inf).to(device)
