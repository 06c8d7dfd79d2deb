"""Where rank rows live: per module two growing blocks of memory, and who owns which rows of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorikeet_adapters.base_model import LinearShape
from lorikeet_adapters.weights import ModuleRows

FIRST_CAPACITY = 32


@dataclass(frozen=True, slots=True)
class Extent:
    """Rows [start, stop) of an arena."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Arena:
    """The rank rows of one module: a[capacity, in_features], b[capacity, out_features].

    Only the engine thread calls it. Growing moves the rows, so views are taken per step.
    """

    def __init__(self, shape: LinearShape, dtype: torch.dtype, device: torch.device) -> None:
        self.a = torch.zeros(0, shape.in_features, dtype=dtype, device=device)
        self.b = torch.zeros(0, shape.out_features, dtype=dtype, device=device)
        self._free: list[Extent] = []

    @property
    def capacity(self) -> int:
        return self.a.shape[0]

    @property
    def bytes(self) -> int:
        return sum(block.numel() * block.element_size() for block in (self.a, self.b))

    def insert(self, rows: ModuleRows) -> Extent:
        """Copy an adapter's rows in and return where they lie."""
        extent = self._allocate(rows.rank)
        try:
            self.a[extent.start : extent.stop] = rows.a
            self.b[extent.start : extent.stop] = rows.b
        except BaseException:
            self.evict(extent)
            raise
        return extent

    def evict(self, extent: Extent) -> None:
        """Give rows back; they are zeroed, so that nothing stale can be read through them."""
        self.a[extent.start : extent.stop] = 0
        self.b[extent.start : extent.stop] = 0
        self._free = _merged([*self._free, extent])

    def _allocate(self, count: int) -> Extent:
        hole = next((free for free in self._free if len(free) >= count), None)
        if hole is None:
            self._grow(count)
            return self._allocate(count)
        self._free.remove(hole)
        if len(hole) > count:
            self._free = _merged([*self._free, Extent(hole.start + count, hole.stop)])
        return Extent(hole.start, hole.start + count)

    def _grow(self, count: int) -> None:
        added = max(FIRST_CAPACITY, self.capacity, count)
        # Both are made before anything changes: when memory runs out, the arena is what it was.
        a = torch.cat([self.a, self.a.new_zeros(added, self.a.shape[1])])
        b = torch.cat([self.b, self.b.new_zeros(added, self.b.shape[1])])
        self._free = _merged([*self._free, Extent(self.capacity, self.capacity + added)])
        self.a, self.b = a, b


def _merged(extents: list[Extent]) -> list[Extent]:
    merged: list[Extent] = []
    for extent in sorted(extents, key=lambda each: each.start):
        if merged and merged[-1].stop == extent.start:
            merged[-1] = Extent(merged[-1].start, extent.stop)
        else:
            merged.append(extent)
    return merged
