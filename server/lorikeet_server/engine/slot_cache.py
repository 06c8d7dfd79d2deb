"""The KV cache of a batch whose requests join and leave: time-aligned slots.

All rows share one column pointer c; a row of length n owns the columns [c - n, c):

    row 0   . . . . . k k k k k k k k |c
    row 1   . . . . . . . . . k k k k |c
    row 2   . . k k k k k k k k k k k |c

To the model a decode step is then an ordinary left-padded batch, so rotary, learned and ALiBi
positions and sliding windows are right on every architecture that has a key-value cache. The
columns left of a row's own are zeros: what is masked is still multiplied, and a leftover NaN or
infinity of a former row would spread through 0 * NaN.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

FIRST_COLUMNS = 128
KEPT_COLUMNS = 512  # what has grown beyond is given back when the last row leaves


class _SlotLayer(CacheLayerMixin):
    """keys and values [slots, kv_heads, columns, head_dim] of one layer, shared pointer in `owner`."""

    is_sliding = False

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()
        self.owner = owner
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the first join allocates."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one column for every row; return a view of the window."""
        own = self.owner
        rows, left, right = own.rows, own.column + 1 - own.window, own.column + 1
        self.keys[:rows, :, own.column : right] = key_states
        self.values[:rows, :, own.column : right] = value_states
        return self.keys[:rows, :, left:right], self.values[:rows, :, left:right]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.window, 0

    def get_seq_length(self) -> int:
        return self.owner.window - 1

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """`lengths[i]` is how many columns row i owns, `most` the largest number of columns.

    No row may be longer than `most` less one. Only the engine thread calls it.
    """

    def __init__(self, layers: int, slots: int, most: int) -> None:
        self.slots = slots
        self.most = most
        self.column = 0
        self.columns = 0
        self.lengths: list[int] = []
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def window(self) -> int:
        """Columns a decode step attends to: the longest row and the new column."""
        return max(self.lengths) + 1

    @property
    def bytes(self) -> int:
        blocks = [block for layer in self.layers for block in (layer.keys, layer.values) if block is not None]
        return sum(block.numel() * block.element_size() for block in blocks)

    def join(self, prefilled: DynamicCache) -> int:
        """Copy a prefilled request into the next free row and return the row."""
        length = prefilled.get_seq_length()
        row = self.rows
        assert row < self.slots, "no free slot"
        self._make_room(length)
        for layer, source in zip(self.layers, prefilled.layers, strict=True):
            if layer.keys is None:
                layer.keys = _block(source.keys, self.slots, self.columns)
                layer.values = _block(source.values, self.slots, self.columns)
            for block, new in ((layer.keys, source.keys), (layer.values, source.values)):
                block[row].zero_()
                block[row, :, self.column - length : self.column] = new[0]
        self.lengths.append(length)
        return row

    def leave(self, row: int) -> int:
        """Free a row by moving the last one into it; returns the row that moved (itself, if it was the last)."""
        last = self.rows - 1
        if row != last:
            for layer in self.layers:
                layer.keys[row] = layer.keys[last]
                layer.values[row] = layer.values[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths and self.columns > KEPT_COLUMNS:
            self._give_back()
        return last

    def open_column(self) -> None:
        """Make sure the next decode step has a column to write."""
        if self.column == self.columns:
            self._shift_or_grow(max(self.lengths) + 1)

    def close_column(self) -> None:
        """A decode step wrote its column: every row is one longer."""
        self.column += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _make_room(self, length: int) -> None:
        """Columns [c - length, c) must exist; rows already here keep their place left of c."""
        if not self.lengths:
            self._grow(length)
            self.column = length
        elif length > self.column:
            self._grow(length)
            self._roll(length - self.column)

    def _shift_or_grow(self, needed: int) -> None:
        """At the right edge: roll left when that frees half the columns or they are all there may be, else grow."""
        if needed <= self.columns // 2 or self.columns == self.most:
            self._roll(max(self.lengths) - self.column)
        else:
            self._grow(self.columns + 1)

    def _grow(self, needed: int) -> None:
        if needed <= self.columns:
            return
        assert needed <= self.most, (needed, self.most)
        columns = max(FIRST_COLUMNS, self.columns)
        while columns < needed:
            columns *= 2
        columns = min(columns, self.most)
        for layer in self.layers:
            if layer.keys is not None:
                layer.keys = _widened(layer.keys, columns)
                layer.values = _widened(layer.values, columns)
        self.columns = columns

    def _give_back(self) -> None:
        for layer in self.layers:
            layer.keys = layer.values = None
        self.column = self.columns = 0

    def _roll(self, by: int) -> None:
        for layer in self.layers:
            layer.keys = torch.roll(layer.keys, by, 2)
            layer.values = torch.roll(layer.values, by, 2)
        self.column += by


def _block(like: torch.Tensor, slots: int, columns: int) -> torch.Tensor:
    return like.new_zeros(slots, like.shape[1], columns, like.shape[3])


def _widened(block: torch.Tensor, columns: int) -> torch.Tensor:
    slots, heads, have, size = block.shape
    wider = block.new_zeros(slots, heads, columns, size)
    wider[:, :, :have] = block
    return wider
