"""Where rank rows live: per module growing blocks of memory, and who owns which rows of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

FIRST_CAPACITY = 32


@dataclass(frozen=True, slots=True)
class Extent:
    """Rows [start, stop) of an arena."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Arena:
    """Blocks of `capacity` rows each, one block per width; an owner has the same rows in all of them.

    Only the engine thread calls it. Growing and compacting move rows, so views are taken per step.
    It never holds more than `limit` rows: who needs more has miscounted.
    """

    def __init__(self, widths: Sequence[int], limit: int, dtype: torch.dtype, device: torch.device) -> None:
        self.blocks = tuple(torch.zeros(0, width, dtype=dtype, device=device) for width in widths)
        self.extents: dict[str, Extent] = {}
        self._limit = limit

    @property
    def capacity(self) -> int:
        return self.blocks[0].shape[0]

    @property
    def bytes(self) -> int:
        return sum(block.numel() * block.element_size() for block in self.blocks)

    def bytes_of(self, owner: str) -> int:
        """What this owner's rows take; 0 for who has none."""
        rows = len(self.extents.get(owner, ()))
        return sum(rows * block.shape[1] * block.element_size() for block in self.blocks)

    def insert(self, owner: str, rows: Sequence[torch.Tensor]) -> None:
        """Copy rows[i][count, width] into block i. The owner must be new; on an error nothing changes."""
        assert owner not in self.extents, owner
        extent = self._allocate(len(rows[0]))
        try:
            for block, new in zip(self.blocks, rows, strict=True):
                block[extent.start : extent.stop] = new
        except BaseException:
            self._zero(extent)
            raise
        self.extents[owner] = extent

    def evict(self, owner: str) -> None:
        """Give the owner's rows back; they are zeroed, so that nothing stale can be read through them."""
        self._zero(self.extents.pop(owner))

    def _zero(self, extent: Extent) -> None:
        for block in self.blocks:
            block[extent.start : extent.stop] = 0

    def _allocate(self, count: int) -> Extent:
        used = sum(map(len, self.extents.values()))
        assert used + count <= self._limit, (used, count, self._limit)
        if used + count > self.capacity:
            self._grow(used + count)
        start = self._hole(count)
        if start is None:
            self._compact()
            start = used
        return Extent(start, start + count)

    def _hole(self, count: int) -> int | None:
        """First of `count` free rows that touch."""
        free = 0
        for extent in (*_ordered(self.extents.values()), Extent(self.capacity, self.capacity)):
            if extent.start - free >= count:
                return free
            free = extent.stop
        return None

    def _grow(self, needed: int) -> None:
        capacity = min(max(FIRST_CAPACITY, 2 * self.capacity, needed), self._limit)
        added = capacity - self.capacity
        # All are made before anything changes: when memory runs out, the arena is what it was.
        self.blocks = tuple(
            torch.cat([block, block.new_zeros(added, block.shape[1])]) for block in self.blocks
        )

    def _compact(self) -> None:
        """Move every owner's rows to the front, in their order."""
        owners = sorted(self.extents, key=lambda owner: self.extents[owner].start)
        indices = [
            row for owner in owners for row in range(self.extents[owner].start, self.extents[owner].stop)
        ]
        packed = tuple(block[indices] for block in self.blocks)
        for block, rows in zip(self.blocks, packed, strict=True):
            block[: len(rows)] = rows
            block[len(rows) :] = 0
        start = 0
        for owner in owners:
            count = len(self.extents[owner])
            self.extents[owner] = Extent(start, start + count)
            start += count


def _ordered(extents: Iterable[Extent]) -> list[Extent]:
    return sorted(extents, key=lambda each: each.start)
