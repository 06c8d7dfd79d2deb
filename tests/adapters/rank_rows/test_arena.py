"""The arena: whoever comes and goes, rows belong to one owner and free rows are zero."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_adapters.rank_rows.arena import FIRST_CAPACITY, Arena, Extent

WIDTHS = (3, 2)


def make_arena(limit: int = 1000, dtype: torch.dtype = torch.float32) -> Arena:
    return Arena(WIDTHS, limit, dtype, torch.device("cpu"))


def rows(rank: int, value: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.full((rank, width), value * (place + 1)) for place, width in enumerate(WIDTHS))


def check(arena: Arena, held: dict[str, int]) -> None:
    """Owners do not overlap and read what they wrote; every other row is zero."""
    assert {owner: len(extent) for owner, extent in arena.extents.items()} == held
    owners: dict[int, float] = {}
    for owner, extent in arena.extents.items():
        for row in range(extent.start, extent.stop):
            assert 0 <= row < arena.capacity
            assert owners.setdefault(row, float(owner)) == float(owner), "two owners of a row"
    for place, (block, width) in enumerate(zip(arena.blocks, WIDTHS, strict=True)):
        for row in range(arena.capacity):
            assert block[row].tolist() == [owners.get(row, 0.0) * (place + 1)] * width


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.integers(40, 120), largest=st.integers(1, 40))
def test_random_coming_and_going_within_the_limit(seed: int, limit: int, largest: int) -> None:
    chance = random.Random(seed)
    arena = make_arena(limit)
    held: dict[str, int] = {}
    for number in range(1, 60):
        rank = chance.randrange(1, largest + 1)
        if chance.random() < 0.6 and sum(held.values()) + rank <= limit:
            held[str(number)] = rank
            arena.insert(str(number), rows(rank, number))
        elif held:
            leaving = chance.choice(sorted(held))
            del held[leaving]
            arena.evict(leaving)
        check(arena, held)
        assert arena.capacity <= limit


def test_a_hole_is_used_again_before_the_arena_grows() -> None:
    arena = make_arena()
    arena.insert("1", rows(20, 1.0))
    arena.insert("2", rows(12, 2.0))
    assert arena.capacity == FIRST_CAPACITY
    arena.evict("1")
    arena.insert("3", rows(8, 3.0))
    arena.insert("4", rows(12, 4.0))
    assert arena.extents == {"2": Extent(20, 32), "3": Extent(0, 8), "4": Extent(8, 20)}
    assert arena.capacity == FIRST_CAPACITY
    assert arena.bytes == FIRST_CAPACITY * sum(WIDTHS) * 4


def test_holes_that_only_together_are_large_enough_are_brought_together() -> None:
    arena = make_arena(limit=FIRST_CAPACITY)
    for number in range(1, 9):
        arena.insert(str(number), rows(4, number))
    for number in (1, 3, 5):
        arena.evict(str(number))
    arena.insert("9", rows(12, 9))
    check(arena, {"2": 4, "4": 4, "6": 4, "7": 4, "8": 4, "9": 12})
    assert arena.capacity == FIRST_CAPACITY


def test_growing_keeps_rows_where_they_are() -> None:
    arena = make_arena()
    for number in range(1, 6):
        arena.insert(str(number), rows(30, number))
    arena.insert("6", rows(500, 6.0))
    check(arena, {**{str(number): 30 for number in range(1, 6)}, "6": 500})
    assert arena.extents["1"] == Extent(0, 30)


def test_rows_take_the_arenas_dtype() -> None:
    arena = make_arena(dtype=torch.bfloat16)
    arena.insert("1", rows(2, 1.5))
    assert {block.dtype for block in arena.blocks} == {torch.bfloat16}
    assert arena.blocks[0][0, 0] == 1.5


def test_running_out_of_memory_leaves_the_arena_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = make_arena()
    arena.insert("1", rows(30, 1))
    calls: list[int] = []
    cat = torch.cat

    def failing(tensors: list[torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return cat(tensors)

    monkeypatch.setattr(torch, "cat", failing)
    with pytest.raises(torch.OutOfMemoryError):
        arena.insert("2", rows(40, 2))
    check(arena, {"1": 30})
    arena.insert("3", rows(40, 3))
    check(arena, {"1": 30, "3": 40})


def test_rows_of_a_wrong_shape_leave_nothing_behind() -> None:
    arena = make_arena()
    arena.insert("1", rows(3, 1))
    with pytest.raises(RuntimeError):
        arena.insert("2", (torch.ones(4, WIDTHS[0]), torch.ones(4, WIDTHS[1] + 1)))
    check(arena, {"1": 3})
