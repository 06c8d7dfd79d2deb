"""The data folder: what was acknowledged is there, whole, whatever happened since."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lorikeet_adapters.errors import StoreError, StoreLocked
from lorikeet_adapters.lock import holder_url
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store, StoredGeneration, StoredName
from tests.adapters.bundles import WordChecker, bundle, check_store

NAMES = st.sampled_from(["a", "b", "owner/c"])
WORDS = st.sampled_from([b"", b"one", b"two", b"three"])


class StoreMachine(RuleBasedStateMachine):
    """The store beside two dicts that say what it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = TemporaryDirectory()
        self.folder = Path(self.scratch.name)
        self.store = Store(self.folder)
        self.names: dict[str, StoredName] = {}
        self.generations: dict[str, StoredGeneration] = {}

    @rule(name=NAMES, config=WORDS, weights=WORDS, note=st.text(max_size=4))
    def commit(self, name: str, config: bytes, weights: bytes, note: str) -> None:
        of_config, of_weights = self.store.put(io.BytesIO(config)), self.store.put(io.BytesIO(weights))
        assert of_config == hashlib.sha256(config).hexdigest()
        assert of_weights == hashlib.sha256(weights).hexdigest()
        key = hashlib.sha256(f"{of_config}{of_weights}".encode()).hexdigest()
        generation = StoredGeneration(key, of_config, of_weights, {"note": note})
        stored = StoredName(name, key, {"note": note}, created=0.5)
        self.store.commit(generation, stored, "registered")
        self.names[name], self.generations[key] = stored, generation

    @rule(content=WORDS)
    def put_and_leave(self, content: bytes) -> None:
        digest = self.store.put(io.BytesIO(content))
        assert self.store.path(digest).read_bytes() == content

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.store.remove(name)
        self.names.pop(name, None)

    @precondition(lambda self: self.generations)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.generations)))
        named = {each.generation for each in self.names.values()}
        stored = self.generations[key]
        before = self.blobs()
        freed = self.store.free(key)
        gone = {digest: before[digest] for digest in before.keys() - self.blobs().keys()}
        if key in named:
            assert not gone
        else:
            del self.generations[key]
            assert gone.keys() == {stored.config, stored.weights} - self.needed()
        assert freed == sum(gone.values())

    @rule()
    def reopen(self) -> None:
        named = {each.generation for each in self.names.values()}
        self.generations = {key: each for key, each in self.generations.items() if key in named}
        before = self.blobs()
        self.store.close()
        self.store = Store(self.folder)
        check_store(self.store, self.folder)
        assert self.store.swept == sum(before.values()) - sum(self.blobs().values())

    @invariant()
    def holds_what_the_dicts_say(self) -> None:
        assert {each.name: each for each in self.store.names()} == self.names
        assert [each.name for each in self.store.names()] == sorted(self.names)
        assert self.store.generations() == self.generations
        assert self.needed() <= self.blobs().keys()

    def needed(self) -> set[str]:
        return {blob for each in self.generations.values() for blob in (each.config, each.weights)}

    def blobs(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in (self.folder / "blobs").glob("*/*/*")}

    def teardown(self) -> None:
        self.store.close()
        self.scratch.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=12, stateful_step_count=16, deadline=None)


@pytest.mark.parametrize(
    "digest",
    ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 63 + "\n", "../" * 21 + "a", "é" * 64, "٣" * 64],
)
def test_a_path_is_made_of_hex_digits_only(tmp_path: Path, digest: str) -> None:
    with Store(tmp_path) as store, pytest.raises(StoreError):
        store.path(digest)


def test_a_blob_cannot_be_written_to(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.path(store.put(io.BytesIO(b"x"))).stat().st_mode & 0o777 == 0o444


def test_the_base_last_served_is_remembered(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.base() is None
        store.remember_base("folder/one", "one")
        store.remember_base("folder/two", "two")
    with Store(tmp_path) as store:
        assert store.base() == ("folder/two", "two")


def test_the_second_opener_is_told_where_the_first_listens(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with pytest.raises(StoreLocked) as caught:
            Store(tmp_path)
        assert caught.value.url is None
        assert holder_url(tmp_path) is None
        store.announce("http://127.0.0.1:8080/long")
        store.announce("http://127.0.0.1:80")
        with pytest.raises(StoreLocked, match="server at") as caught:
            Store(tmp_path)
        assert caught.value.url == holder_url(tmp_path) == "http://127.0.0.1:80"
    assert holder_url(tmp_path) is None, "the URL of one who has left is nobody's"
    with Store(tmp_path):
        assert holder_url(tmp_path) is None, "nor is it the next holder's"


def test_nobody_holds_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert holder_url(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_from_the_future_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    catalogue = sqlite3.connect(tmp_path / "catalogue.sqlite")
    catalogue.execute("PRAGMA user_version = 999")
    catalogue.close()
    with pytest.raises(StoreError, match="999"):
        Store(tmp_path)
    assert lock_is_free(tmp_path)


def test_a_catalogue_that_is_none_is_refused_and_the_lock_given_back(tmp_path: Path) -> None:
    Store(tmp_path).close()
    (tmp_path / "catalogue.sqlite").write_bytes(b"no database at all " * 100)
    with pytest.raises(StoreError, match="catalogue"):
        Store(tmp_path)
    assert lock_is_free(tmp_path)


def lock_is_free(folder: Path) -> bool:
    with (folder / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def test_a_start_sweeps_leftovers_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        orphan = store.path(store.put(io.BytesIO(b"orphan")))
    (tmp_path / "incoming" / "1-2-3").write_bytes(b"half")
    stranger = orphan.parent / ".nfs0001"
    stranger.write_bytes(b"a file of somebody else")
    with Store(tmp_path) as store:
        assert store.swept == len(b"orphan") + len(b"half")
    assert not orphan.exists()
    assert not list((tmp_path / "incoming").iterdir())
    assert stranger.exists()


def test_history_says_what_happened_in_order(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        registry = Registry(store, "base", WordChecker())
        registry.register("a", bundle("one"))
        registry.register("a", bundle("two"), replace=True)
        registry.delete("a", timeout=0)
        registry.close()
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as catalogue:
        rows = catalogue.execute("SELECT name, event FROM history ORDER BY id").fetchall()
    catalogue.close()
    assert rows == [("a", "registered"), ("a", "replaced"), ("a", "deleted")]


# A kill at any moment.

CHILD = """
import sys
from pathlib import Path
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from tests.adapters.bundles import WordChecker, bundle

with Store(Path(sys.argv[1])) as store:
    registry = Registry(store, "base", WordChecker())
    print("open", flush=True)
    for number in range(int(sys.argv[2]), 10**9):
        registry.register(f"new-{number}", bundle(f"new {number} " * 2000))
        print("new", number, flush=True)
        registry.register("latest", bundle(f"latest {number}"), replace=True)
        print("latest", number, flush=True)
        if number % 3 == 0:
            registry.delete(f"new-{number}", timeout=0)
            print("deleted", number, flush=True)
"""


@contextmanager
def registering(folder: Path, first: int) -> Iterator[subprocess.Popen[str]]:
    """A process that registers, replaces and deletes without end and says what it has done."""
    root = Path(__file__).resolve().parents[2]
    paths = {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    command = [sys.executable, "-c", CHILD, str(folder), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **paths}) as child:
        try:
            yield child
        finally:
            child.kill()


def test_a_kill_loses_nothing_acknowledged_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    chance = random.Random(7)
    present: set[int] = set()
    deleted: set[int] = set()
    latest = -1
    for turn in range(6):
        with registering(tmp_path, first := 1000 * turn) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            said = [child.stdout.readline() for _ in range(chance.randrange(1, 40))]
            # Somewhere in the middle of the next call; how far it gets is up to the two processes.
            for _ in range(chance.randrange(0, 20_000)):
                pass
            child.kill()
            said += child.stdout.readlines()
        for line in said:
            word, number = line.split()
            if word == "new":
                present.add(int(number))
            elif word == "deleted":
                deleted.add(int(number))
            else:
                latest = int(number)
        with Store(tmp_path) as store:
            check_store(store, tmp_path)
            names = {each.name: each for each in store.names()}
            begun = {f"new-{max([first, *(each + 1 for each in present)])}"}
            dying = {f"new-{each}" for each in present - deleted if each % 3 == 0}
            wanted = {"latest", *(f"new-{each}" for each in present - deleted)}
            assert wanted - dying <= names.keys() <= wanted | begun | {"latest"}
            assert not {f"new-{each}" for each in deleted} & names.keys()
            held = store.generations()[names["latest"].generation]
            now = int(store.path(held.weights).read_text().split()[1])
            assert latest <= now <= latest + 1 or now == first
            deleted |= {each for each in present if f"new-{each}" not in names}


# A call that fails.


class Faults:
    """Makes the nth of the counted calls to the operating system or the database fail, once."""

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
        counted = action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_TRANSACTION)
        return sqlite3.SQLITE_DENY if counted and self.due(f"sqlite {table}") else sqlite3.SQLITE_OK


class FaultyFile:
    """A file opened for writing, whose calls are counted too."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults
        self.write = faults.wrap(file.write, "write")
        self.flush = faults.wrap(file.flush, "flush")
        self.fileno = file.fileno

    def __enter__(self) -> FaultyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    made = Faults()
    for name in ("fsync", "open", "rename", "mkdir", "chmod", "unlink"):
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
            registry = Registry(store, "base", WordChecker())
            registry.register("old", bundle("old words"))
            registry.register("other", bundle("other words"))
            before = visible(registry)
            faults.arm(nth)
            succeeded = attempt(CHANGES[change], registry)
            seen.append(faults.failed)
            faults.arm(0)
            assert (visible(registry) != before) is succeeded, seen[-1]
            assert visible(registry) == {each.name: each.generation for each in store.names()}
            # Where a blob was in place already, or cannot be deleted, the next start sweeps it.
            swept_later = succeeded or seen[-1] in ("open", "fsync", "unlink")
            check_store(store, folder, tidy=not swept_later)
            assert succeeded or attempt(CHANGES[change], registry), "the disk has room again"
            wanted = visible(registry)
            registry.close()
        with Store(folder) as store:
            check_store(store, folder)
            assert {each.name: each.generation for each in store.names()} == wanted
    expected = {"register": "open write flush fsync rename chmod", "delete": "unlink"}
    assert {"sqlite COMMIT", "sqlite BEGIN", *expected.get(change, "").split()} <= set(seen)
    if change == "register":
        # Both blobs: the file, the folder that got a folder, the name, its folder; only then the catalogue.
        order = [each for each in seen if each in ("fsync", "rename", "sqlite COMMIT")]
        assert order == ["fsync", "fsync", "rename", "fsync"] * 2 + ["sqlite COMMIT"]


def attempt(change: Change, registry: Registry) -> bool:
    try:
        change(registry)
    except (OSError, sqlite3.Error):
        return False
    return True


def visible(registry: Registry) -> dict[str, str]:
    return {record.name: record.generation for record in registry.records()}
