"""An owner that can be killed, replicas of it, and the line between them, which can be cut at any word."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from lorikeet_adapters.errors import RegistryAway
from lorikeet_adapters.owner import LocalOwner, Owner
from lorikeet_adapters.store import Store
from tests.adapters.bundles import check_store
from tests.adapters.world import World


def nothing(method: str) -> None:
    """Happens before or after a call of this method."""


class Line:
    """What replicas have of the owner. Every word is pickled on its way, as between processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_cut = False
        self.calls: list[str] = []
        self.lose_answer_of = ""  # once, after the call was carried out
        self.spoil: Callable[[bytes], bytes] = lambda piece: piece
        self.before_call: Callable[[str], None] = nothing
        self.after_call: Callable[[str], None] = nothing
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder)
        self.owner = LocalOwner(self.store)

    def as_owner(self) -> Owner:
        """It has every method of one."""
        return cast(Owner, self)

    def kill(self) -> None:
        """The process is gone, and another one opens the folder it left."""
        self.store.close()
        for upload in self.owner._depot._uploads.values():
            upload.arrival._open.close()  # as its end closes them
        self.open()

    def close(self) -> None:
        self.owner.close()
        check_store(self.store, self.folder)
        self.store.close()

    def __getattr__(self, method: str) -> Any:
        return partial(self._call, method)

    def _call(self, method: str, *arguments: Any) -> Any:
        if self.is_cut:
            raise RegistryAway("the line is cut")
        self.calls.append(method)
        self.before_call(method)
        try:
            answer = getattr(self.owner, method)(*passed_on(arguments))
        except Exception as error:
            raise passed_on(error) from None
        self.after_call(method)
        if method == self.lose_answer_of:
            self.lose_answer_of = ""
            raise RegistryAway("the answer was lost")
        return self.spoil(answer) if method == "read" else passed_on(answer)


def passed_on(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


class Replica(World):
    """A world that follows, when it is told to, or by its thread once that is started."""

    def __init__(self, folder: Path, line: Line, keep: int = 2) -> None:
        super().__init__(folder, keep, line.as_owner())
        assert self.registry.follower is not None
        self.follower = self.registry.follower

    def step(self) -> None:
        self.follower.catch_up(5)

    def start(self) -> None:
        self.step()
        self.follower.start()

    def meanings(self) -> dict[str, str]:
        return {each.name: each.generation for each in self.registry.records()}


def contents(store: Store) -> dict[str, object]:
    """All that replicas agree in."""
    catalogue = store.catalogue
    position = catalogue.position() if catalogue.follows else catalogue.own()
    return {
        "names": catalogue.names(),
        "aliases": catalogue.aliases(),
        "history": [each for name in names_ever(store) for each in catalogue.history(name, -1)],
        "position": position,
    }


def names_ever(store: Store) -> list[str]:
    return [name for (name,) in store.catalogue.read("SELECT DISTINCT name FROM history ORDER BY name")]
