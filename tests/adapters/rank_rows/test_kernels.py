"""Both kernels against a loop over PEFT's formula, over who asks for which adapter, ranks and mixes."""

from __future__ import annotations

import random

import pytest
import torch

from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.rank_rows.arena import Arena, Extent
from lorikeet_adapters.rank_rows.kernels import KERNELS
from lorikeet_adapters.rank_rows.layout import active_rows
from lorikeet_adapters.shares import Shares
from lorikeet_adapters.weights import ModuleRows
from tests.kernels import ON_CPU

CPU = torch.device("cpu")

K, N = 48, 40
RANKS = (1, 16, 4, 64, 3, 8, 2, 32)
TOKENS = 24


def adapters(dtype: torch.dtype) -> dict[str, ModuleRows]:
    torch.manual_seed(0)
    return {
        f"g{number}": ModuleRows(torch.randn(rank, K).to(dtype), (torch.randn(rank, N) / rank).to(dtype))
        for number, rank in enumerate(RANKS)
    }


def popularity(kind: str) -> list[Mix]:
    """One mix a token: who asks for what. A base row stands in every batch."""
    chance = random.Random(kind)
    everyone = [f"g{number}" for number in range(len(RANKS))]
    if kind == "identical":
        asked = ["g3"] * TOKENS
    elif kind == "distinct":
        asked = [everyone[token % len(everyone)] for token in range(TOKENS)]
    elif kind == "uniform":
        asked = chance.choices(everyone, k=TOKENS)
    else:
        asked = chance.choices(everyone, [1 / (1 + each) for each in range(len(everyone))], k=TOKENS)
    mixes = [Mix.of([Term(each, 1.0)]) for each in asked]
    mixes[5] = BASE_MIX
    if kind == "blends":
        mixes = [
            Mix.of(Term(each, chance.uniform(-2, 2)) for each in chance.sample(everyone, chance.randrange(4)))
            for _ in range(TOKENS)
        ]
        mixes[5] = BASE_MIX
    return mixes


def expected(x: torch.Tensor, y: torch.Tensor, mixes: list[Mix], held: dict[str, ModuleRows]) -> torch.Tensor:
    """What PEFT adds, token by token, in fp32."""
    out = y.float().clone()
    for token, mix in enumerate(mixes):
        for term in mix.terms:
            rows = held[term.adapter]
            out[token] += term.weight * (rows.b.float().T @ (rows.a.float() @ x[token].float()))
    return out


def arranged(
    mixes: list[Mix], held: dict[str, ModuleRows], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, Shares]:
    """a, b and s of one step, through the arena."""
    arena = Arena((K, N), 512, dtype, CPU)
    for generation, rows in held.items():
        arena.insert(generation, (rows.a, rows.b))
    active = active_rows(arena.extents, mixes, CPU)
    assert active is not None
    in_a, in_b = arena.blocks
    a = torch.cat([in_a[each.start : each.stop] for each in active.extents])
    b = torch.cat([in_b[each.start : each.stop] for each in active.extents])
    return a, b, active.s


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["identical", "distinct", "uniform", "zipf", "blends"])
@pytest.mark.parametrize("kernel", ON_CPU)
def test_every_token_gets_its_own_adapters_share(kernel: str, kind: str, dtype: torch.dtype) -> None:
    held = adapters(dtype)
    mixes = popularity(kind)
    x, y = torch.randn(TOKENS, K).to(dtype), torch.randn(TOKENS, N).to(dtype)
    a, b, s = arranged(mixes, held, dtype)
    out = KERNELS[kernel](a, b, s)(x, y.clone())
    assert out.dtype == dtype
    rough = dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), expected(x, y, mixes, held), rtol=0.03 if rough else 1e-5, atol=0.5 if rough else 1e-4
    )
    assert torch.equal(out[5], y[5]), "the base row, bit for bit"


@pytest.mark.parametrize("kernel", ON_CPU)
def test_one_mix_for_a_whole_prompt(kernel: str) -> None:
    held = adapters(torch.float32)
    mix = Mix.of([Term("g1", 0.7), Term("g4", -0.3)])
    x, y = torch.randn(TOKENS, K), torch.randn(TOKENS, N)
    a, b, s = arranged([mix], held, torch.float32)
    out = KERNELS[kernel](a, b, s.each(TOKENS))(x, y.clone())
    torch.testing.assert_close(out, expected(x, y, [mix] * TOKENS, held), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", ON_CPU)
def test_a_row_is_the_same_whatever_huge_weights_its_neighbours_use(kernel: str) -> None:
    """x . a overflows to infinity for every token; only those that asked for the adapter may see it."""
    held = adapters(torch.float32)
    huge = {**held, "g1": ModuleRows(torch.full((16, K), 3e38), torch.full((16, N), 3e38))}
    mixes = [Mix.of([Term(f"g{token % 3}", 1.0)]) for token in range(TOKENS)]
    mixes[5] = BASE_MIX
    x, y = torch.rand(TOKENS, K) + 1, torch.randn(TOKENS, N)
    clean = KERNELS[kernel](*arranged(mixes, held, torch.float32))(x, y.clone())
    beside = KERNELS[kernel](*arranged(mixes, huge, torch.float32))(x, y.clone())
    for token, mix in enumerate(mixes):
        if "g1" in mix.adapters:
            assert not torch.isfinite(beside[token]).any()
        else:
            assert torch.equal(beside[token], clean[token]), token


@pytest.mark.parametrize("kernel", ON_CPU)
@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_a_token_that_is_not_finite_stays_alone(kernel: str, poison: float) -> None:
    held = adapters(torch.float32)
    mixes = [Mix.of([Term("g1", 1.0)])] * 4
    x, y = torch.randn(4, K), torch.randn(4, N)
    arrangement = arranged(mixes, held, torch.float32)
    clean = KERNELS[kernel](*arrangement)(x, y.clone())
    x[2, 7] = poison
    beside = KERNELS[kernel](*arrangement)(x, y.clone())
    assert torch.equal(beside[[0, 1, 3]], clean[[0, 1, 3]])
    assert not torch.isfinite(beside[2]).any()


def test_s_has_a_column_for_each_row_of_each_adapter_named() -> None:
    extents = {"b": Extent(0, 2), "a": Extent(5, 6), "unused": Extent(2, 5)}
    mixes = [
        Mix.of([Term("a", 0.5), Term("b", -2.0)]),
        BASE_MIX,
        Mix.of([Term("b", 1.0), Term("elsewhere", 1.0)]),
    ]
    active = active_rows(extents, mixes, CPU)
    assert active is not None
    assert active.extents == (Extent(5, 6), Extent(0, 2))
    assert active.s.dense.tolist() == [[0.5, -2.0, -2.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]


def test_no_mix_with_rows_here_is_none() -> None:
    extents = {"a": Extent(0, 2)}
    assert active_rows(extents, [BASE_MIX, Mix.of([Term("elsewhere", 1.0)])], CPU) is None
    assert active_rows({}, [Mix.of([Term("a", 1.0)])], CPU) is None
