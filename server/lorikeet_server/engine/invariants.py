"""What must hold after every decision of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence

from lorikeet_server.engine.batch import Batch
from lorikeet_server.engine.entry import Entry
from lorikeet_server.engine.geometry import Geometry


def check(batch: Batch, holders: Sequence[Entry], geometry: Geometry) -> None:
    """`holders` are the requests that hold a slot once the batch is decided."""
    assert len(holders) <= geometry.slots
    assert not holders or geometry.fits(len(holders), max(each.length for each in holders))
    decoding = {row.request.id for row in batch.decode}
    assert decoding.isdisjoint(batch.leave), "a request left and stayed"
    assert decoding.isdisjoint(chunk.request.id for chunk in batch.prefill)
