"""How fast this machine moves memory at the moment: what a decode step is bound by."""

from __future__ import annotations

import time

import torch

PROBE_BYTES = 128 << 20  # beyond the last-level cache of most machines


class BandwidthProbe:
    """Copies one large tensor into another; both are held, so no page is touched for the first time."""

    def __init__(self, size: int = PROBE_BYTES) -> None:
        self._source = torch.ones(size, dtype=torch.uint8)
        self._target = torch.zeros_like(self._source)

    def read(self) -> float:
        """Bytes a second of one copy with torch's current threads, bytes read and bytes written both counted."""
        started = time.perf_counter()
        self._target.copy_(self._source)
        return 2 * self._source.numel() / (time.perf_counter() - started)
