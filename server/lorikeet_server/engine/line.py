"""In what order requests are offered what a step can give."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from lorikeet_server.engine.entry import Entry
from lorikeet_server.engine.fairness import Fairness
from lorikeet_server.engine.lifecycle import RequestState
from lorikeet_server.engine.residency import Residency

# How many later requests may take what one waits for, rank rows or room in the cache, before none may.
PATIENCE = 16


class Line:
    """`entries` wait or are prompts under way. The tenant served least comes first. Within a tenant: prompts under way, then priority, then arrival.

    A request whose adapters would need others evicted lets those pass whose adapters are at hand, so
    requests of one adapter run together; it does so PATIENCE times at most.
    """

    def __init__(self, entries: Iterable[Entry], fairness: Fairness, residency: Residency) -> None:
        self._fairness = fairness
        self._residency = residency
        self._free_rows = residency.row_budget - residency.rows_used
        tenants: dict[str, list[Entry]] = {}
        for entry in entries:
            tenants.setdefault(entry.tenant, []).append(entry)
        self._tenants = {tenant: deque(sorted(own, key=self._rank)) for tenant, own in tenants.items()}
        self._short_of_rows: list[Entry] = []
        self._short_of_room: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        """Each entry once; whose turn it is may change with every charge in between."""
        while self._tenants:
            tenant = min(self._tenants, key=self._turn)
            own = self._tenants[tenant]
            yield own.popleft()
            if not own:
                del self._tenants[tenant]

    def lacks_rows(self, entry: Entry) -> None:
        """It cannot be admitted in this step."""
        self._short_of_rows.append(entry)

    def lacks_room(self, entry: Entry) -> None:
        """It cannot be admitted in this step: the cache is too full."""
        self._short_of_room.append(entry)

    def may_pass(self, entry: Entry) -> bool:
        """Whether it takes nothing from a request that has been passed too often."""
        return all(each.passed < PATIENCE for each in self._short_of_room) and all(
            each.passed < PATIENCE or set(entry.adapters) <= set(each.adapters)
            for each in self._short_of_rows
        )

    def admitted(self, entry: Entry) -> None:
        """Count it against those it has passed."""
        for each in self._short_of_room:
            each.passed += 1
        if entry.adapters:
            yielding = (each for each in self._tenants.get(entry.tenant, ()) if each.order < entry.order)
            for each in (*self._short_of_rows, *yielding):
                each.passed += 1

    def _turn(self, tenant: str) -> tuple[int, int]:
        return self._fairness.served(tenant), self._tenants[tenant][0].order

    def _rank(self, entry: Entry) -> tuple[bool, int, bool, int]:
        waits = entry.state is RequestState.WAITING
        yields = (
            waits
            and entry.passed < PATIENCE
            and self._residency.rows_to_insert(entry.adapters) > self._free_rows
        )
        return waits, entry.request.priority, yields, entry.order
