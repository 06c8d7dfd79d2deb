"""One step's decisions about who begins: a slot, room in the cache and rank rows, or a place in the line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lorikeet_server.engine.entry import Entry
from lorikeet_server.engine.geometry import Geometry
from lorikeet_server.engine.lifecycle import RequestState
from lorikeet_server.engine.line import Line
from lorikeet_server.engine.prefix_index import BLOCK, PrefixIndex
from lorikeet_server.engine.residency import Residency

# Tokens a request must be able to grow by when it is admitted, so that it is not preempted at once.
HEADROOM = 64


class Admission:
    """`holders` are the requests that hold a slot when the step begins; those admitted join them.

    `promised` are requests for which slots are kept, see `make_way`.
    """

    def __init__(
        self,
        geometry: Geometry,
        residency: Residency,
        prefixes: PrefixIndex,
        holders: Iterable[Entry],
        promised: Iterable[Entry] = (),
    ) -> None:
        self._geometry = geometry
        self._residency = residency
        self._prefixes = prefixes
        self._holders = list(holders)
        self._promised = {each.request.id for each in promised}

    @property
    def free(self) -> int:
        return self._geometry.slots - len(self._holders)

    def admit(self, entry: Entry, line: Line) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Adapters to (evict, insert) for it, or None while something it needs is short."""
        others = len(self._promised - {entry.request.id})
        if self.free <= others or not line.may_pass(entry) or self._is_being_computed(entry):
            return None
        if not self._has_room(entry, self._holders):
            line.lacks_room(entry)
            return None
        moves = self._residency.admit(entry.adapters)
        if moves is None:
            line.lacks_rows(entry)
            return None
        line.admitted(entry)
        self._holders.append(entry)
        self._promised.discard(entry.request.id)
        return moves

    def make_way(self, line: Line, tenants: int) -> tuple[list[Entry], list[Entry]]:
        """So that each of the `tenants` has its share of the slots: (who gives one up, to whom they are promised).

        For callers that decide nothing else with this value: it plays the admissions through.
        """
        share = self._geometry.slots // tenants
        victims, promised = [], []
        for entry in line:
            held = Counter(each.tenant for each in self._holders)
            if held[entry.tenant] >= share:
                break
            victim = None if self.free else self._victim(held, share)
            rest = [each for each in self._holders if each is not victim]
            if len(rest) == self._geometry.slots or not self._could_begin(entry, rest):
                continue
            victims += [victim] if victim else []
            promised.append(entry)
            self._holders = [*rest, entry]
        return victims, promised

    def _victim(self, held: Counter[str], share: int) -> Entry | None:
        """The newest of the tenant that has the most slots, when those are more than its share."""
        greedy, most = held.most_common(1)[0]
        own = [each for each in self._holders if each.tenant == greedy]
        return max(own, key=lambda each: each.order) if most > share else None

    def _could_begin(self, entry: Entry, holders: list[Entry]) -> bool:
        return (
            not self._is_being_computed(entry)
            and self._has_room(entry, holders)
            and self._residency.could_admit(entry.adapters)
        )

    def _is_being_computed(self, entry: Entry) -> bool:
        """Another request computes the next block it needs: a step or two later it need not do so itself."""
        missing = next((key for key in entry.prefix if key not in self._prefixes), None)
        return missing is not None and any(
            missing in each.prefix[each.computed // BLOCK :]
            for each in self._holders
            if each.state is RequestState.PREFILL
        )

    def _has_room(self, entry: Entry, holders: list[Entry]) -> bool:
        under_way = sum(each.length for each in holders if each.state is RequestState.PREFILL)
        longest = max(each.length for each in (*holders, entry))
        return (
            self._geometry.fits(len(holders) + 1, longest + HEADROOM)
            and under_way + entry.length <= self._geometry.prompt_cells
        )
