"""The arena: whoever comes and goes, rows belong to one owner and free rows are zero."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_adapters.base_model import LinearShape
from lorikeet_adapters.rank_rows.arena import FIRST_CAPACITY, Arena, Extent
from lorikeet_adapters.weights import ModuleRows

SHAPE = LinearShape(3, 2)


def make_arena(dtype: torch.dtype = torch.float32) -> Arena:
    return Arena(SHAPE, dtype, torch.device("cpu"))


def rows(rank: int, value: float) -> ModuleRows:
    return ModuleRows(
        torch.full((rank, SHAPE.in_features), value), torch.full((rank, SHAPE.out_features), -value)
    )


def check(arena: Arena, held: dict[int, Extent]) -> None:
    """Owners do not overlap and read what they wrote; every other row is zero and free once."""
    owner: dict[int, int] = {}
    for number, extent in held.items():
        for row in range(extent.start, extent.stop):
            assert 0 <= row < arena.capacity
            assert owner.setdefault(row, number) == number, "two owners of a row"
    for row in range(arena.capacity):
        value = float(owner.get(row, 0))
        assert arena.a[row].tolist() == [value] * SHAPE.in_features
        assert arena.b[row].tolist() == [-value] * SHAPE.out_features
    free = [row for extent in arena._free for row in range(extent.start, extent.stop)]
    assert sorted([*free, *owner]) == list(range(arena.capacity))
    assert all(left.stop < right.start for left, right in zip(arena._free, arena._free[1:], strict=False)), (
        "merged"
    )


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.integers(1, 40) | st.just(-1) | st.just(-2), max_size=30), st.randoms(use_true_random=False)
)
def test_random_coming_and_going(moves: list[int], chance: object) -> None:
    arena = make_arena()
    held: dict[int, Extent] = {}
    for number, move in enumerate(moves, start=1):
        if move > 0:
            held[number] = arena.insert(rows(move, number))
            assert len(held[number]) == move
        elif held:
            leaving = chance.choice(sorted(held))  # type: ignore[attr-defined]
            arena.evict(held.pop(leaving))
        check(arena, held)
    for extent in held.values():
        arena.evict(extent)
    check(arena, {})
    assert len(arena._free) <= 1


def test_a_hole_is_used_again_before_the_arena_grows() -> None:
    arena = make_arena()
    first = arena.insert(rows(20, 1.0))
    arena.insert(rows(12, 2.0))
    assert arena.capacity == FIRST_CAPACITY
    arena.evict(first)
    assert arena.insert(rows(8, 3.0)) == Extent(0, 8)
    assert arena.insert(rows(12, 4.0)) == Extent(8, 20)
    assert arena.capacity == FIRST_CAPACITY
    assert arena.bytes == FIRST_CAPACITY * (SHAPE.in_features + SHAPE.out_features) * 4


def test_growing_keeps_rows_where_they_are() -> None:
    arena = make_arena()
    held = {number: arena.insert(rows(30, number)) for number in range(1, 6)}
    held[6] = arena.insert(rows(500, 6.0))
    check(arena, held)
    assert held[1] == Extent(0, 30)


def test_rows_take_the_arenas_dtype() -> None:
    arena = make_arena(torch.bfloat16)
    arena.insert(rows(2, 1.5))
    assert arena.a.dtype == arena.b.dtype == torch.bfloat16
    assert arena.a[0, 0] == 1.5


def test_running_out_of_memory_leaves_the_arena_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = make_arena()
    held = {1: arena.insert(rows(30, 1))}
    calls: list[int] = []
    cat = torch.cat

    def failing(tensors: list[torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return cat(tensors)

    monkeypatch.setattr(torch, "cat", failing)
    with pytest.raises(torch.OutOfMemoryError):
        arena.insert(rows(40, 2))
    check(arena, held)
    held[3] = arena.insert(rows(40, 3))
    check(arena, held)
