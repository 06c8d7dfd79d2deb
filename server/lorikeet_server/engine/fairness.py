"""Who has been served least: a virtual token counter for each tenant.

After "Fairness in Serving Large Language Models" (Sheng et al., 2024): an input token counts one, an
output token two. A tenant that comes back after a pause is lifted to just before the least of those at
work, so nobody saves up service, and nobody is punished for having had the server alone.
"""

from __future__ import annotations

from collections import Counter

INPUT_COST = 1
OUTPUT_COST = 2


class Fairness:
    """Counts service."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._open: Counter[str] = Counter()
        self._floor = 0  # the counter of whoever left last, for when nobody is at work

    @property
    def at_work(self) -> int:
        """Tenants with a request that has not ended."""
        return len(self._open)

    def served(self, tenant: str) -> int:
        return self._served[tenant]

    def arrive(self, tenant: str) -> None:
        """A request came in."""
        if not self._open[tenant]:
            at_work = [self._served[each] for each, count in self._open.items() if count]
            floor = min(at_work, default=self._floor + 1) - 1  # so it is next
            self._served[tenant] = max(self._served.get(tenant, 0), floor)
        self._open[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A request ended."""
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]
            self._floor = self._served[tenant]

    def charge(self, tenant: str, tokens: int) -> None:
        self._served[tenant] += tokens
