"""Rank rows in C, which reads for each token the rows that it names: rank_rows.c."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorikeet_adapters.native.library import functions, pointers
from lorikeet_adapters.precision import bfloat16_is_fast
from lorikeet_adapters.shares import Shares

NAMES = {torch.float32: "rank_rows_fp32", torch.bfloat16: "rank_rows_bf16"}
FEW_TOKENS = 64
SPARSE = 2  # a matrix product multiplies all rows with all tokens, at twice the speed


def takes(dtype: torch.dtype, s: Shares) -> bool:
    """Whether this is faster than PyTorch's matrix product, which reads a row once for many tokens."""
    if NAMES.get(dtype) not in functions():
        return False
    slow = dtype is torch.bfloat16 and not bfloat16_is_fast(s.dense.device)
    return slow or len(s) <= FEW_TOKENS or SPARSE * len(s.entries.rows) <= s.dense.numel()


def bind(
    a: torch.Tensor, b: torch.Tensor, s: Shares, places: torch.Tensor | None = None
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What adds these rows' share to y, in place if it can be. All are on the CPU and of one dtype.

    S's column i means row places[i] of a and b, or row i. A step calls it in every layer: what does not
    change between steps is made here.
    """
    function, entries, scratch = functions()[NAMES[a.dtype]], s.entries, torch.empty(s.entries.rows.shape)
    rows = entries.rows if places is None else places[entries.rows]
    kept = (
        a.contiguous(),
        b.contiguous(),
        entries.begin,
        entries.token,
        rows,
        entries.weights,
        scratch,
    )
    (at_a, at_b, *at_rest), sizes, dtype = pointers(*kept), (len(s), a.shape[1], b.shape[1]), a.dtype
    read, written = sizes[0] * sizes[1], sizes[0] * sizes[2]

    def run(x: torch.Tensor, y: torch.Tensor, kept: object = kept) -> torch.Tensor:
        x, y = x.contiguous(), y.contiguous()
        assert x.numel() == read
        assert y.numel() == written
        assert x.dtype is y.dtype is dtype
        function(x.data_ptr(), at_a, at_b, y.data_ptr(), *at_rest, *sizes)
        return y

    return run
