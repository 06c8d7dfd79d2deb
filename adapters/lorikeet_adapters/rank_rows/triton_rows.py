"""Rank rows on CUDA: one kernel shrinks, one expands. Tiles of S that are all zero are not computed.

Sums are fp32 and are added to the base's output, which is rounded once. Without a GPU both run under Triton's
interpreter (TRITON_INTERPRET=1), which is how the tests of this repository run them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from lorikeet_adapters.shares import Shares

TOKENS = 16  # of a tile; a matrix product on the tensor cores has no fewer
RANKS = 16
INSIDE = 128
OUTSIDE = 128


@triton.jit
def _shrink(
    x,
    a,
    s,
    v,
    tokens,
    ranks,
    inside,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,
    INSIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """v[T, R] = S * (x a^T) where S is not zero, else zero."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    r = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    held = (t[:, None] < tokens) & (r[None, :] < ranks)
    at = t[:, None] * ranks + r[None, :]
    share = tl.load(s + at, mask=held, other=0.0)
    sums = tl.zeros((TOKENS, RANKS), tl.float32)
    if tl.max(tl.abs(share)) > 0:
        for start in range(0, inside, INSIDE):
            k = start + tl.arange(0, INSIDE)
            left = tl.load(
                x + t[:, None] * inside + k[None, :],
                mask=(t[:, None] < tokens) & (k[None, :] < inside),
                other=0.0,
            )
            right = tl.load(
                a + r[None, :] * inside + k[:, None],
                mask=(r[None, :] < ranks) & (k[:, None] < inside),
                other=0.0,
            )
            sums += tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision=PRECISION)
    tl.store(v + at, tl.where(share != 0, share * sums, 0.0), mask=held)


@triton.jit
def _expand(
    v,
    b,
    s,
    y,
    tokens,
    ranks,
    outside,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y[T, N] += v b, in place."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * OUTSIDE + tl.arange(0, OUTSIDE)
    sums = tl.zeros((TOKENS, OUTSIDE), tl.float32)
    for start in range(0, ranks, RANKS):
        r = start + tl.arange(0, RANKS)
        held = (t[:, None] < tokens) & (r[None, :] < ranks)
        at = t[:, None] * ranks + r[None, :]
        share = tl.load(s + at, mask=held, other=0.0)
        if tl.max(tl.abs(share)) > 0:
            shrunk = tl.load(v + at, mask=held, other=0.0)
            rows = tl.load(
                b + r[:, None] * outside + n[None, :],
                mask=(r[:, None] < ranks) & (n[None, :] < outside),
                other=0.0,
            )
            sums += tl.dot(shrunk, rows.to(tl.float32), input_precision=PRECISION)
    where = y + t[:, None] * outside + n[None, :]
    held = (t[:, None] < tokens) & (n[None, :] < outside)
    own = tl.load(where, mask=held, other=0.0).to(tl.float32)
    tl.store(where, (own + sums).to(y.dtype.element_ty), mask=held)


def bind(a: torch.Tensor, b: torch.Tensor, s: Shares) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What adds these rows' share to y, in place if it can be."""
    a, b, dense = a.contiguous(), b.contiguous(), s.dense.contiguous()
    (tokens, ranks), inside, outside = dense.shape, a.shape[1], b.shape[1]
    v = torch.empty_like(dense)
    # What is bfloat16 fits into tf32 without rounding, and that is what tensor cores multiply.
    precision = "tf32" if a.dtype is torch.bfloat16 else "ieee"
    across = triton.cdiv(tokens, TOKENS)

    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = x.contiguous(), y.contiguous()
        _shrink[(across, triton.cdiv(ranks, RANKS))](
            x, a, dense, v, tokens, ranks, inside, TOKENS, RANKS, INSIDE, precision
        )
        _expand[(across, triton.cdiv(outside, OUTSIDE))](
            v, b, dense, y, tokens, ranks, outside, TOKENS, RANKS, OUTSIDE, precision
        )
        return y

    return run
