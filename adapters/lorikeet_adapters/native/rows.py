"""Rank rows for the few tokens of a decode step: rank_rows.c."""

from __future__ import annotations

import torch

from lorikeet_adapters.native.library import functions, pointers
from lorikeet_adapters.rank_rows.shares import Shares

NAMES = {torch.float32: "rank_rows_fp32", torch.bfloat16: "rank_rows_bf16"}
MOST_TOKENS = 64  # a matrix product of more reads each row once for many of them


def takes(x: torch.Tensor) -> bool:
    """Whether x[T, K] is for `add`; a prompt's is not."""
    return len(x) <= MOST_TOKENS and NAMES.get(x.dtype) in functions()


def add(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: Shares, y: torch.Tensor) -> torch.Tensor:
    """y, with the rows' share added in place if it can be. All are on the CPU and of one dtype."""
    x, a, b, y = x.contiguous(), a.contiguous(), b.contiguous(), y.contiguous()
    entries = s.entries
    shrunk = torch.empty(len(entries.rows))
    where = pointers(x, a, b, y, entries.begin, entries.token, entries.rows, entries.weights, shrunk)
    functions()[NAMES[x.dtype]](*where, len(x), x.shape[1], y.shape[1])
    return y
