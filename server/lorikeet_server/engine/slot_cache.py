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

from lorikeet_server.engine.geometry import FIRST_COLUMNS, Geometry, columns_for

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
    """`lengths[i]` is how many columns row i owns.

    Blocks grow by doubling and never hold more cells than `geometry` allows; the caller keeps rows
    and lengths to what `geometry.fits`. Only the engine thread calls it.
    """

    def __init__(self, layers: int, geometry: Geometry) -> None:
        self._geometry = geometry
        self.column = 0
        self.lengths: list[int] = []
        self._held_rows = 0  # the blocks' size
        self.columns = 0
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])

    @property
    def slots(self) -> int:
        return self._geometry.slots

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
        # Layers that use another's keys and values come last and have none of their own.
        for layer, source in zip(self.layers, prefilled.layers, strict=False):
            if source.keys is None:
                continue
            if layer.keys is None:
                layer.keys, layer.values = self._block(source.keys), self._block(source.values)
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
                if layer.keys is not None:
                    layer.keys[row] = layer.keys[last]
                    layer.values[row] = layer.values[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths and self.columns > KEPT_COLUMNS:
            self.clear()
        return last

    def clear(self) -> None:
        """Give everything back; no row is left."""
        for layer in self.layers:
            layer.keys = layer.values = None
        self.lengths = []
        self.column = self.columns = self._held_rows = 0

    def open_column(self) -> None:
        """Make sure the next decode step has a column to write."""
        longest = max(self.lengths)
        if self.column < self.columns:
            return
        shape = self._shape_for(self.rows, longest + 1)
        # Rolling that frees half of the columns is cheaper than growing; else it is for when growing is out.
        if 2 * longest < self.columns or shape == (self._held_rows, self.columns):
            self._roll(longest - self.column)
        else:
            self._reshape(shape, pointer=longest)

    def close_column(self) -> None:
        """A decode step wrote its column: every row is one longer."""
        self.column += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _make_room(self, length: int) -> None:
        """A row more, and columns [c - length, c); rows already here keep their place left of c."""
        longest = max([length, *self.lengths])
        if self.rows == self._held_rows or longest > self.columns:
            self._reshape(self._shape_for(self.rows + 1, longest), pointer=longest)
        elif not self.lengths:
            self.column = length
        elif length > self.column:
            self._roll(length - self.column)

    def _shape_for(self, rows: int, longest: int) -> tuple[int, int]:
        """(rows, columns) of the blocks: with room to grow where the geometry has it, as small as can be where not."""
        need = columns_for(min(longest, self._geometry.longest))
        wide = max(_bucket(need, FIRST_COLUMNS, self._geometry.most_columns), self.columns)
        tall = max(_bucket(rows, 1, self.slots), self._held_rows)
        for shape in ((tall, wide), (_bucket(rows, 1, self.slots), need), (rows, need)):
            if shape[0] * shape[1] <= self._geometry.cells:
                return shape
        raise AssertionError(f"{rows} rows of {longest} tokens were admitted into {self._geometry}")

    def _reshape(self, shape: tuple[int, int], pointer: int) -> None:
        """New blocks, layer by layer, with every row's columns ending at `pointer`."""
        longest = max(self.lengths, default=0)
        self._held_rows, self.columns = shape
        rows, old, new = (
            self.rows,
            slice(self.column - longest, self.column),
            slice(pointer - longest, pointer),
        )
        for layer in self.layers:
            if layer.keys is not None:
                keys, values = self._block(layer.keys), self._block(layer.values)
                keys[:rows, :, new] = layer.keys[:rows, :, old]
                values[:rows, :, new] = layer.values[:rows, :, old]
                layer.keys, layer.values = keys, values
        self.column = pointer

    def _block(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self._held_rows, like.shape[1], self.columns, like.shape[3])

    def _roll(self, by: int) -> None:
        for layer in self.layers:
            if layer.keys is not None:
                layer.keys = torch.roll(layer.keys, by, 2)
                layer.values = torch.roll(layer.values, by, 2)
        self.column += by


def _bucket(least: int, first: int, most: int) -> int:
    """`first` doubled until it is at least `least`, `most` at most."""
    size = first
    while size < least:
        size *= 2
    return min(size, most)
