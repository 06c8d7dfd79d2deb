"""S: how much of each rank row every token of a step takes, whole and without its zeros."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch


@dataclass(frozen=True, slots=True)
class Entries:
    """S without its zeros, token after token: entry e is `weights[e]`, of the token `token[e]` and the row `rows[e]`.

    Token t has the entries [begin[t], begin[t + 1]). All are int32 but `weights`, which are fp32.
    """

    begin: torch.Tensor
    token: torch.Tensor
    rows: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Shares:
    """`dense` is S[T, R] in fp32."""

    dense: torch.Tensor
    _spans: dict[int, Shares] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return self.dense.shape[0]

    def each(self, span: int) -> Shares:
        """Each row for `span` tokens that follow one another. The last one asked for is kept: every layer asks."""
        if span == 1:
            return self
        if span not in self._spans:
            self._spans.clear()
            self._spans[span] = Shares(self.dense.repeat_interleave(span, 0))
        return self._spans[span]

    @cached_property
    def entries(self) -> Entries:
        token, rows = self.dense.nonzero(as_tuple=True)
        begin = torch.zeros(len(self) + 1, dtype=torch.int32)
        begin[1:] = torch.bincount(token, minlength=len(self)).cumsum(0)
        return Entries(begin, token.int(), rows.int(), self.dense[token, rows])
