"""What the door counts, beside what each replica does."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest


class Tally:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.placed = Counter(
            "lorikeet_door_requests",
            "Requests sent to a replica; `home` is the one its adapter prefers, `spilled` another, `any` where none is preferred.",
            ["placed"],
            registry=self._registry,
        )
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

    def text(self) -> bytes:
        return generate_latest(self._registry)
