"""A registry over a store for tests, and what it said about generations nobody uses any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.owner import Owner
from lorikeet_adapters.record import Memory
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from tests.adapters.bundles import WordChecker, bundle

PATIENCE = 30.0  # seconds until a test that hangs says so


class World:
    """A registry over a store, and what it said about generations nobody uses any more."""

    def __init__(self, folder: Path, keep: int = 1, owner: Owner | None = None) -> None:
        self.folder = folder
        self.store = Store(folder)
        self.checker = WordChecker()
        self.registry = Registry(self.store, "base", self.checker, keep=keep, owner=owner)
        self.retired: list[str] = []
        self.pins: list[tuple[str, bool]] = []
        self.registry.attach(self.retire, lambda *pin: self.pins.append(pin), rows=20)

    def retire(self, generation: str) -> Future[Memory]:
        """As an engine that had 100 bytes of each on the device and none on the host."""
        self.retired.append(generation)
        answer: Future[Memory] = Future()
        answer.set_result(Memory(device=100))
        return answer

    def register(self, name: str, words: str, replace: bool = False) -> str:
        return self.registry.register(name, bundle(words), replace=replace)[0].generation

    def lease(self, **weights: float) -> Mix:
        return self.registry.lease(Term(name, weight) for name, weight in weights.items())

    def blobs(self) -> set[str]:
        return {path.name for path in (self.folder / "blobs").glob("*/*/*")}

    def close(self) -> None:
        """Wait for the janitor; what is left on disk must be what is in use."""
        self.registry.close()
        self.store.close()


def waiting(registry: Registry) -> threading.Event:
    """Set once somebody waits for leases: from then on a release is what wakes them."""
    begun = threading.Event()
    condition = registry._usage._changed
    wait_for = condition.wait_for

    def wait_and_tell(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        begun.set()
        return wait_for(predicate, timeout)

    condition.wait_for = wait_and_tell  # type: ignore[method-assign, assignment]
    return begun
