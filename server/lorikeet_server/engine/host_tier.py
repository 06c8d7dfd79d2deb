"""Adapters' tensors kept in memory once they were read: who comes back to the device need not wait for the disk.

A copy is kept of what is on the device, too: giving rows back is then nothing but forgetting them.
Only the engine thread calls it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from lorikeet_adapters.weights import AdapterWeights


class HostTier:
    """At most `limit` bytes; the adapters that were asked for longest ago go first.

    A generation is the digest of its bytes, so what is kept is never stale.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.hits = 0
        self.changes = 0  # of what is kept
        self._kept: OrderedDict[str, AdapterWeights] = OrderedDict()  # the next to go comes first

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def keep(self, generation: str, weights: AdapterWeights) -> None:
        """Keep what was read, unless it alone is more than the limit."""
        self.forget(generation)
        if weights.bytes > self.limit:
            return
        self._kept[generation] = weights
        self.changes += 1
        self.bytes += weights.bytes
        while self.bytes > self.limit:
            self.forget(next(iter(self._kept)))

    def find(self, generation: str) -> AdapterWeights | None:
        if generation not in self._kept:
            return None
        self.hits += 1
        self._kept.move_to_end(generation)
        return self._kept[generation]

    def forget(self, generation: str) -> int:
        """Bytes that are given back."""
        weights = self._kept.pop(generation, None)
        freed = weights.bytes if weights is not None else 0
        self.changes += weights is not None
        self.bytes -= freed
        return freed

    def clear(self) -> None:
        self._kept.clear()
        self.changes += 1
        self.bytes = 0
