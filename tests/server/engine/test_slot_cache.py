"""Slots alone: what a row reads back is what it wrote, whoever joins, leaves, grows or wraps."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from lorikeet_server.engine.geometry import FIRST_COLUMNS, Geometry, columns_for
from lorikeet_server.engine.slot_cache import SlotCache

HEADS, SIZE, LAYERS = 2, 4, 2


def make_cache(slots: int, longest: int, cells: int = 10**9) -> SlotCache:
    return SlotCache(LAYERS, Geometry(slots, longest, cells, prompt_cells=0))


def prefilled(values: list[int]) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(LAYERS):
        cache.update(block([values], layer), -block([values], layer), layer)
    return cache


def block(rows: list[list[int]], layer: int) -> torch.Tensor:
    """Keys [rows, heads, columns, size] that carry recognisable numbers."""
    numbers = torch.tensor(rows, dtype=torch.float32) + 1000 * layer
    return numbers[:, None, :, None].expand(-1, HEADS, -1, SIZE).contiguous()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_keep_their_own_history(seed: int) -> None:
    chance = random.Random(seed)
    longest = chance.choice([200, 300, 10_000])
    cells = chance.choice([columns_for(200), 2 * columns_for(200), 4 * columns_for(longest), 10**9])
    geometry = Geometry(4, longest, cells, prompt_cells=0)
    cache = SlotCache(LAYERS, geometry)
    rows: list[list[int]] = []
    number = 0
    for _ in range(60):
        move = chance.choice(["join", "leave", "decode", "decode", "decode"])
        length = chance.choice([1, 3, 40, 150])
        if move == "join" and len(rows) < 4 and geometry.fits(len(rows) + 1, max([length, *map(len, rows)])):
            rows.append([number + each for each in range(length)])
            number += 200
            assert cache.join(prefilled(rows[-1])) == len(rows) - 1
        elif move == "leave" and rows:
            row = chance.randrange(len(rows))
            moved = cache.leave(row)
            rows[row] = rows[moved]
            rows.pop()
        elif rows and max(map(len, rows)) < 198 and geometry.fits(len(rows), max(map(len, rows)) + 1):
            number += 1
            decode(cache, rows, number)
        assert cache.bytes <= cells * 4 * 2 * LAYERS * HEADS * SIZE
        assert cache.lengths == [len(row) for row in rows]


def decode(cache: SlotCache, rows: list[list[int]], number: int) -> None:
    """One step as the model does it: every layer writes a column and attends to the window."""
    cache.open_column()
    for row in rows:
        row.append(number)
    for layer in range(LAYERS):
        new = block([[number]] * len(rows), layer)
        keys, values = cache.update(new, -new, layer)
        assert keys.shape[2] == cache.window == max(map(len, rows))
        for index, row in enumerate(rows):
            own = keys[index, 0, cache.window - len(row) :, 0] - 1000 * layer
            assert own.tolist() == row
            assert torch.equal(values[index], -keys[index])
            assert not keys[index, :, : cache.window - len(row)].any(), (
                "columns that are not its own must be zero"
            )
    cache.close_column()


def test_blocks_that_have_grown_are_given_back_when_the_last_row_leaves() -> None:
    cache = make_cache(slots=2, longest=2000)
    for length, kept in ((100, True), (900, False), (100, True)):
        cache.join(prefilled(list(range(length))))
        held = cache.bytes
        assert held > 0
        cache.leave(0)
        assert cache.bytes == (held if kept else 0)


def test_a_row_as_long_as_there_are_columns_goes_on_at_the_right_edge() -> None:
    cache = make_cache(slots=2, longest=200)
    row = list(range(60))
    cache.join(prefilled(row))
    for number in range(FIRST_COLUMNS):
        decode(cache, [row], 500 + number)
    short = [1, 2, 3]
    cache.join(prefilled(short))
    decode(cache, [row, short], 999)


def test_what_a_former_row_left_behind_cannot_spread() -> None:
    cache = make_cache(slots=2, longest=200)
    poisoned = DynamicCache()
    for layer in range(LAYERS):
        poisoned.update(
            torch.full((1, HEADS, 30, SIZE), torch.nan), torch.full((1, HEADS, 30, SIZE), torch.inf), layer
        )
    cache.join(poisoned)
    cache.leave(0)
    long, short = list(range(30)), [1, 2]
    cache.join(prefilled(long))
    cache.leave(0)
    cache.join(prefilled(short))
    cache.join(prefilled(long))
    decode(cache, [short, long], 99)
