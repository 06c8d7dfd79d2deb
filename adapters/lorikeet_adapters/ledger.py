"""Where a change of the registry is committed: in its own folder, or with the owner of a shared one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Change
from lorikeet_adapters.usage import Settled, Usage

P = ParamSpec("P")
T = TypeVar("T")


class Ledger(Protocol):
    def write(self, attempt: Callable[[], T]) -> T:
        """Run it under the writing lock; it decides by the directory and calls `apply` at most once, last.

        It may run again, by a newer directory: what it raises or returns the last time is what comes out.
        """

    def apply(self, change: Change) -> Settled:
        """Commit it and let names mean it. Inside `write` only."""

    def catch_up(self, timeout: float) -> None:
        """Come to what is so elsewhere. Raises RegistryAway where that takes more than `timeout` seconds."""


class LocalLedger:
    """A registry of its own. Raises StoreError for a folder that is a copy of another's."""

    def __init__(self, store: Store, usage: Usage, writing: threading.Lock) -> None:
        if store.catalogue.follows:
            raise StoreError(
                "this data folder is a replica's, a copy of what the owner of a shared registry has; "
                "serve it as a replica, or choose another --data-dir"
            )
        self._usage = usage
        self._writing = writing

    def write(self, attempt: Callable[[], T]) -> T:
        with self._writing:
            return attempt()

    def apply(self, change: Change) -> Settled:
        return self._usage.apply(change)

    def catch_up(self, timeout: float) -> None:
        """There is nothing elsewhere."""


class HasLedger(Protocol):
    ledger: Ledger


W = TypeVar("W", bound=HasLedger)


def written(method: Callable[Concatenate[W, P], T]) -> Callable[Concatenate[W, P], T]:
    """The same method inside its own ledger's `write`."""

    @wraps(method)
    def run(self: W, /, *arguments: P.args, **options: P.kwargs) -> T:
        return self.ledger.write(lambda: method(self, *arguments, **options))

    return run
