"""Every call to the operating system or the database fails once, in turn, until a change succeeds without one."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorikeet_adapters.errors import StoreError
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Target
from tests.adapters.bundles import WordChecker, bundle, check_store

pytestmark = pytest.mark.safety("reliability 6")

WRITES = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_TRANSACTION)


class Faults:
    """Makes the nth of the counted calls fail, once."""

    def __init__(self) -> None:
        self.left = 0
        self.failed = ""

    def arm(self, nth: int) -> None:
        self.left, self.failed = nth, ""

    def due(self, what: str) -> bool:
        self.left -= 1
        if self.left == 0:
            self.failed = what
        return self.left == 0

    def wrap(self, call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def failing(*arguments: Any, **options: Any) -> Any:
            if self.due(what):
                raise OSError(28, "No space left on device")
            made = call(*arguments, **options)
            return FaultyFile(made, self) if "xb" in arguments else made

        return failing

    def authorize(self, action: int, table: str | None, *_: object) -> int:
        """A transaction's COMMIT and each table it writes to."""
        return sqlite3.SQLITE_DENY if action in WRITES and self.due(f"sqlite {table}") else sqlite3.SQLITE_OK


class FaultyFile:
    """A file opened for writing, whose calls are counted too."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults
        self.write = faults.wrap(file.write, "write")
        self.flush = faults.wrap(file.flush, "flush")
        self.fileno, self.tell = file.fileno, file.tell

    def __enter__(self) -> FaultyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    made = Faults()
    for name in ("fsync", "open", "rename", "mkdir", "chmod", "unlink", "pwrite"):
        monkeypatch.setattr(os, name, made.wrap(getattr(os, name), name))
    monkeypatch.setattr(io, "open", made.wrap(io.open, "open"))
    connect = sqlite3.connect

    def connect_counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_authorizer(made.authorize)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_counted)
    return made


Change = Callable[[Registry], object]
CHANGES: dict[str, Change] = {
    "register": lambda registry: registry.register("new", bundle("new words", rank=3)),
    "register the same bytes": lambda registry: registry.register("new", bundle("old words")),
    "replace": lambda registry: registry.register("old", bundle("new words", rank=3), replace=True),
    "activate": lambda registry: registry.activate("old", registry.record("old").generations[1]),
    "pin": lambda registry: registry.update("old", pinned=True),
    "alias": lambda registry: registry.put_alias(
        "stable", [Target("old", None, 1), Target("other", None, 1)]
    ),
    "delete an alias": lambda registry: registry.delete_alias("canary"),
    "delete": lambda registry: registry.delete("old", timeout=0),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_each_call_fails_once_in_turn(tmp_path: Path, faults: Faults, change: str) -> None:
    """After a failure the change is whole or has not been, in memory as on disk, and can be made again."""
    seen: list[str] = []
    nth = 0
    while not seen or seen[-1]:
        nth += 1
        folder = tmp_path / str(nth)
        with Store(folder) as store:
            registry = make_registry(store)
            before = visible(registry)
            faults.arm(nth)
            succeeded = attempt(CHANGES[change], registry)
            seen.append(faults.failed)
            faults.arm(0)
            assert (visible(registry) != before) is succeeded, seen[-1]
            assert visible(registry) == visible(Registry(store, "base", WordChecker())), (
                "memory and disk agree"
            )
            # Where a blob was in place already, or cannot be deleted, the next start sweeps it.
            check_store(store, folder, tidy=not succeeded and seen[-1] not in ("fsync", "unlink", "open"))
            assert succeeded or attempt(CHANGES[change], registry), "the disk has room again"
            wanted = visible(registry)
            registry.close()
        with Store(folder) as store:
            check_store(store, folder)
            assert visible(Registry(store, "base", WordChecker())) == wanted
    expected = {
        "register": "open write flush fsync rename chmod mkdir",
        "delete": "unlink",
        "replace": "unlink",
    }
    assert {"sqlite COMMIT", "sqlite BEGIN", *expected.get(change, "").split()} <= set(seen)
    if change == "register":
        # Both blobs: the file, the folder that got a folder, the name, its folder; only then the catalogue.
        order = [each for each in seen if each in ("fsync", "rename", "sqlite COMMIT")]
        assert order == ["fsync", "fsync", "rename", "fsync"] * 2 + ["sqlite COMMIT"]


def make_registry(store: Store) -> Registry:
    """`old` has a generation to go back to and one more than is kept comes with the next."""
    registry = Registry(store, "base", WordChecker(), keep=2)
    registry.register("old", bundle("older words"))
    registry.register("old", bundle("old words"), replace=True)
    registry.register("other", bundle("other words"))
    registry.put_alias("canary", [Target("other", None, 1)])
    return registry


def test_each_call_of_a_start_fails_once_in_turn(tmp_path: Path, faults: Faults) -> None:
    """A start that fails says so, holds no lock and spoils nothing: the next one finds everything."""
    with Store(tmp_path) as store:
        wanted = visible(make_registry(store))
    seen: list[str] = []
    nth = 0
    while not seen or seen[-1]:
        nth += 1
        (tmp_path / "incoming" / "half").write_bytes(b"left by a kill")
        faults.arm(nth)
        try:
            Store(tmp_path).close()
        except (OSError, sqlite3.Error, StoreError):
            assert faults.failed
        else:
            assert faults.failed in ("", "mkdir"), (
                "what matters was told; a folder that is there needs no mkdir"
            )
        seen.append(faults.failed)
        faults.arm(0)
        with Store(tmp_path) as store:
            check_store(store, tmp_path)
            assert visible(Registry(store, "base", WordChecker())) == wanted
    assert {"open", "unlink", "sqlite BEGIN"} <= set(seen)


def attempt(change: Change, registry: Registry) -> bool:
    try:
        change(registry)
    except (OSError, sqlite3.Error):
        return False
    return True


def visible(registry: Registry) -> dict[str, object]:
    records = {each.name: (each.generations, each.pinned) for each in registry.records()}
    return records | {each.name: each.targets for each in registry.aliases()}
