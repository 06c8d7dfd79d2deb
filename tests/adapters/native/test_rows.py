"""Rank rows in C: the sum of the reference kernel, for every shape, and no token sees what it does not name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.native import library, rows
from lorikeet_adapters.rank_rows import kernels
from lorikeet_adapters.rank_rows.kernels import AUTO, KERNELS, choose, reference
from lorikeet_adapters.shares import Shares
from lorikeet_server.engine.config import KernelName
from tests.adapters.native.conftest import Functions

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def shares(tokens: int, ranks: int, seed: int) -> Shares:
    """Some rows for some tokens, none for others."""
    generator = torch.Generator().manual_seed(seed)
    named = torch.rand(tokens, ranks, generator=generator) < 0.4
    named[torch.rand(tokens, generator=generator) < 0.3] = False
    return Shares(torch.where(named, torch.randn(tokens, ranks, generator=generator), 0))


def test_it_is_the_reference_to_rounding(functions: Functions) -> None:
    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from([torch.float32, torch.bfloat16]),
        st.integers(1, 9),
        st.integers(1, 40),
        st.sampled_from([1, 7, 64, 300]),
        st.sampled_from([1, 5, 128, 389]),
        st.integers(0, 999),
    )
    def holds(dtype: torch.dtype, tokens: int, ranks: int, inside: int, outside: int, seed: int) -> None:
        torch.manual_seed(seed)
        x, y = torch.randn(tokens, inside).to(dtype), torch.randn(tokens, outside).to(dtype)
        a, b = torch.randn(ranks, inside).to(dtype), torch.randn(ranks, outside).to(dtype)
        s = shares(tokens, ranks, seed)
        expected = reference(a, b, s)(x, y.clone())
        found = rows.bind(a, b, s)(x, y.clone())
        rough = dtype is torch.bfloat16
        torch.testing.assert_close(
            found, expected, rtol=0.01 if rough else 1e-4, atol=0.05 if rough else 1e-3 * inside**0.5
        )
        for token in (s.dense == 0).all(1).nonzero().flatten().tolist():
            assert torch.equal(found[token], y[token])

    holds()


def test_rows_that_a_token_does_not_name_are_not_even_read(functions: Functions) -> None:
    x, y, s = torch.randn(4, 64), torch.randn(4, 96), torch.zeros(4, 12)
    s[0, :6] = s[2, 3:9] = 1.0
    a, b = torch.randn(12, 64), torch.randn(12, 96)
    clean = rows.bind(a, b, Shares(s))(x, y.clone())
    a[9:], b[9:], x[1], x[3] = float("nan"), float("inf"), float("nan"), float("inf")
    assert torch.equal(rows.bind(a, b, Shares(s))(x, y.clone()), clean)
    a[7] = float("nan")  # named by one token
    beside = rows.bind(a, b, Shares(s))(x, y.clone())
    assert torch.equal(beside[[0, 1, 3]], clean[[0, 1, 3]])
    assert beside[2].isnan().all()


def test_what_is_given_otherwise_than_bound_is_no_read_beyond_the_end(functions: Functions) -> None:
    bound = rows.bind(torch.randn(4, 64), torch.randn(4, 32), Shares(torch.ones(3, 4)))
    for x, y in (
        (torch.randn(4, 64), torch.randn(4, 32)),
        (torch.randn(3, 63), torch.randn(3, 32)),
        (torch.randn(3, 64), torch.randn(3, 31)),
        (torch.randn(3, 64), torch.randn(2, 32)),
        (torch.randn(3, 64).bfloat16(), torch.randn(3, 32)),
    ):
        with pytest.raises(AssertionError):
            bound(x, y)


def test_prompts_of_one_adapter_are_left_to_matrix_products(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, four = (
        Shares(torch.ones(1, 16)).each(100),
        Shares(torch.eye(4).repeat_interleave(16, 1)).each(100),
    )
    for fast in (True, False):
        monkeypatch.setattr(rows, "bfloat16_is_fast", lambda device, fast=fast: fast)
        assert [rows.takes(torch.float32, each) for each in (prompt, four)] == [False, True]
        assert [rows.takes(torch.bfloat16, each) for each in (prompt, four)] == [not fast, True]
        assert rows.takes(torch.float32, Shares(torch.ones(1, 16)))
        assert not rows.takes(torch.float16, Shares(torch.ones(1, 16)))


def test_the_names_of_kernels_are_those_of_the_flag() -> None:
    assert {AUTO, *KERNELS} == set(KernelName)


def test_a_library_of_another_version_is_none_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not library.functions():
        pytest.skip("the package was installed without a C compiler")
    monkeypatch.setattr(library, "FUNCTIONS", {**library.FUNCTIONS, "linear_int3": (1, 1)})
    library.functions.cache_clear()
    try:
        assert library.functions() == {}
        assert "install the package again" in caplog.text
        assert choose(AUTO, CPU) == choose("torch", CPU) == "torch"
    finally:
        library.functions.cache_clear()


@pytest.mark.parametrize("name", ["torch", "reference"])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_kernels_of_pytorch_run_everywhere(name: str, device: torch.device) -> None:
    assert choose(name, device) == name


def test_where_nothing_was_built_pytorch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MODULE", "lorikeet_adapters.native._none")
    library.functions.cache_clear()
    try:
        assert library.functions() == {}
        assert choose(AUTO, CPU) == "torch"
        with pytest.raises(RefusedError, match="--kernel auto"):
            choose("native", CPU)
    finally:
        library.functions.cache_clear()


def test_a_gpu_has_no_use_for_it(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "functions", lambda: functions)
    monkeypatch.setattr(library, "functions", lambda: functions)
    # What runs on any processor of its kind is slower than PyTorch.
    expected = "native" if functions["has_variants"]() else "torch"
    assert (choose(AUTO, CPU), choose("native", CPU), choose(AUTO, CUDA)) == (expected, "native", "torch")
    with pytest.raises(RefusedError, match="cuda"):
        choose("native", CUDA)


def test_triton_is_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, found in ((CPU, object()), (CUDA, None)):
        monkeypatch.setattr(kernels, "find_spec", lambda name, found=found: found)
        with pytest.raises(RefusedError, match="it is for CUDA"):
            choose("triton", device)
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    assert choose("triton", CUDA) == "triton"
