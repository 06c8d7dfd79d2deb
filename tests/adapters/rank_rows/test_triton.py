"""The kernels for CUDA under Triton's interpreter, against the reference: shapes that fill no tile, zeros, huge neighbours."""

from __future__ import annotations

import pytest
import torch

from lorikeet_adapters.rank_rows.kernels import reference
from lorikeet_adapters.shares import Shares

pytest.importorskip("triton", reason="needs triton, which is for Linux on x86-64")


def shares(tokens: int, ranks: int) -> Shares:
    """Blocks of eight rows, each token with one or two of them, some with none."""
    s = torch.zeros(tokens, ranks)
    for token in range(tokens):
        for block in {token % 5, (3 * token) % 7}:
            s[token, 8 * block : 8 * block + 8] = 1.0 - block / 3
    return Shares(s)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("tokens", "ranks", "inside", "outside"),
    [(1, 8, 64, 32), (8, 56, 192, 130), (17, 24, 130, 260), (40, 16, 64, 128)],
)
def test_it_is_the_reference_to_rounding(
    tokens: int, ranks: int, inside: int, outside: int, dtype: torch.dtype
) -> None:
    from lorikeet_adapters.rank_rows import triton_rows

    torch.manual_seed(0)
    x, y = torch.randn(tokens, inside).to(dtype), torch.randn(tokens, outside).to(dtype)
    a, b, s = (
        torch.randn(ranks, inside).to(dtype),
        torch.randn(ranks, outside).to(dtype),
        shares(tokens, ranks),
    )
    expected = reference(a, b, s)(x, y.clone())
    found = triton_rows.bind(a, b, s)(x, y.clone())
    rough = dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.01 if rough else 1e-4, atol=0.5 if rough else 1e-3)
    for token in (s.dense == 0).all(1).nonzero().flatten().tolist():
        assert torch.equal(found[token], y[token])


@pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value) encountered:RuntimeWarning"
)  # numpy computes here
def test_a_neighbours_huge_weights_and_a_poisoned_token_stay_where_they_are() -> None:
    from lorikeet_adapters.rank_rows import triton_rows

    torch.manual_seed(0)
    x, y, s = torch.rand(8, 64) + 1, torch.randn(8, 64), torch.zeros(8, 32)
    s[:4, :16] = s[4:7, 16:] = 1.0
    a, b = torch.randn(32, 64), torch.randn(32, 64)
    clean = triton_rows.bind(a, b, Shares(s))(x, y.clone())
    a[:16] = b[:16] = 3e38
    beside = triton_rows.bind(a, b, Shares(s))(x, y.clone())
    assert not beside[:4].isfinite().any()
    assert torch.equal(beside[4:], clean[4:])
    x[5] = float("nan")
    poisoned = triton_rows.bind(a, b, Shares(s))(x, y.clone())
    assert torch.equal(poisoned[[4, 6, 7]], clean[[4, 6, 7]])
