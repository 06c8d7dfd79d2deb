"""One step's decisions about who begins: a slot, room in the cache and rank rows, or a place in the line."""

from __future__ import annotations

from collections.abc import Iterable

from lorikeet_server.engine.entry import Entry
from lorikeet_server.engine.geometry import Geometry
from lorikeet_server.engine.lifecycle import RequestState
from lorikeet_server.engine.line import Line
from lorikeet_server.engine.prefix_index import BLOCK, PrefixIndex
from lorikeet_server.engine.residency import Residency

# Tokens a request must be able to grow by when it is admitted, so that it is not preempted at once.
HEADROOM = 64
# With so many slots or more, and more than one tenant, the last free one is for a tenant that has none.
RESERVE_FROM = 8


class Admission:
    """`holders` are the requests that hold a slot when the step begins; those admitted join them."""

    def __init__(
        self, geometry: Geometry, residency: Residency, prefixes: PrefixIndex, holders: Iterable[Entry]
    ) -> None:
        self._geometry = geometry
        self._residency = residency
        self._prefixes = prefixes
        self._holders = list(holders)

    @property
    def free(self) -> int:
        return self._geometry.slots - len(self._holders)

    def admit(
        self, entry: Entry, line: Line, reserve: bool
    ) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Adapters to (evict, insert) for it, or None while something it needs is short.

        With `reserve` the last free slot goes to a tenant that has none.
        """
        if not (self._slot_for(entry, reserve) and line.may_pass(entry)) or self._is_being_computed(entry):
            return None
        if not self._has_room(entry):
            line.lacks_room(entry)
            return None
        moves = self._residency.admit(entry.adapters)
        if moves is None:
            line.lacks_rows(entry)
            return None
        line.admitted(entry)
        self._holders.append(entry)
        return moves

    def _slot_for(self, entry: Entry, reserve: bool) -> bool:
        if self.free == 1 and reserve and self._geometry.slots >= RESERVE_FROM:
            return all(each.tenant != entry.tenant for each in self._holders)
        return self.free > 0

    def _is_being_computed(self, entry: Entry) -> bool:
        """Another request computes the next block it needs: a step or two later it need not do so itself."""
        missing = next((key for key in entry.prefix if key not in self._prefixes), None)
        return missing is not None and any(
            missing in each.prefix[each.computed // BLOCK :]
            for each in self._holders
            if each.state is RequestState.PREFILL
        )

    def _has_room(self, entry: Entry) -> bool:
        under_way = sum(each.length for each in self._holders if each.state is RequestState.PREFILL)
        longest = max(each.length for each in (*self._holders, entry))
        return (
            self._geometry.fits(len(self._holders) + 1, longest + HEADROOM)
            and under_way + entry.length <= self._geometry.prompt_cells
        )
