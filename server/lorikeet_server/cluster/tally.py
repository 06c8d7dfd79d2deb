"""What the door counts, beside what each replica does."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest

from lorikeet_server.cluster.affinity import Placed, placed

# The replicas there are, as the router saw them last, in this process.
KNOWN: list[str] = []


class Tally:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._placed = Counter(
            "lorikeet_door_requests",
            "Requests that a replica answered; `home` is the one its adapter prefers, `spilled` another, `any` where none is preferred.",
            ["placed"],
            registry=self._registry,
        )
        for how in Placed:
            self._placed.labels(how)
        self.retried = Counter(
            "lorikeet_door_retries",
            "Requests that were asked of another replica, because theirs was gone before it began.",
            registry=self._registry,
        )
        self.lost = Counter(
            "lorikeet_door_lost",
            "Requests that ended with an error because their replica was gone.",
            registry=self._registry,
        )

    def answered(self, adapter: str, replica: str) -> None:
        self._placed.labels(placed(adapter, replica, KNOWN)).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
