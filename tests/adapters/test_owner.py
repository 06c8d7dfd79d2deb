"""The owner's own rules: what it takes, what it holds for whom, and that it is a small process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from lorikeet_adapters import depot
from lorikeet_adapters import owner as owners
from lorikeet_adapters.batch import Appended, Behind, Missing, Position
from lorikeet_adapters.errors import BlobTooLarge, StoreError
from lorikeet_adapters.owner import LocalOwner
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Change, HistoryEvent, StoredGeneration, StoredName
from tests.adapters.bundles import check_store
from tests.adapters.replicas import passed_on

DETAILS = {"pinned": False, "metadata": {}, "tenants": None, "shared_after": 0}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, max_blob_bytes=1000) as made:
        yield made


@pytest.fixture
def owner(store: Store) -> Iterator[LocalOwner]:
    made = LocalOwner(store)
    yield made
    made.close()
    check_store(store, store.folder)


def named(name: str, config: bytes, weights: bytes) -> Change:
    generation = StoredGeneration(
        sha256(config + weights), sha256(config), sha256(weights), {"ranks": {"q": 1}}
    )
    stored = StoredName(name, (generation.generation,), DETAILS, 1.5)
    return Change(HistoryEvent.REGISTERED, stored, None, {generation.generation: generation})


def bring(owner: LocalOwner, content: bytes) -> bool:
    assert owner.put(sha256(content), 0, content) == len(content)
    return owner.seal(sha256(content), sha256(content))


def now(owner: LocalOwner) -> Position:
    return owner._position


def files(store: Store) -> int:
    return len([each for each in store.folder.rglob("*") if each.is_file() and "blobs" in each.parts]) + len(
        list((store.folder / "incoming").iterdir())
    )


def test_a_change_is_taken_once_its_files_are_there_and_nothing_was_in_between(owner: LocalOwner) -> None:
    change, start = named("a", b"config", b"weights"), now(owner)
    assert owner.append(change, "m", start) == Missing(tuple(sorted((sha256(b"config"), sha256(b"weights")))))
    assert bring(owner, b"config")
    assert owner.append(change, "m", start) == Missing((sha256(b"weights"),))
    assert bring(owner, b"weights")
    assert owner.append(change, "m", Position()) == Behind(), "of no history at all"
    answer = owner.append(change, "m", start)
    assert isinstance(answer, Appended)
    assert (answer.event.id, answer.event.mark, answer.event.name) == (1, "m", "a")
    assert owner.append(change, "m", start) == Behind()
    assert now(owner) == Position(start.owner, 1, "m")


def test_a_name_that_goes_takes_its_files(owner: LocalOwner, store: Store) -> None:
    change = named("a", b"config", b"weights")
    assert bring(owner, b"config")
    assert bring(owner, b"weights")
    owner.append(change, "m", now(owner))
    assert owner.size(sha256(b"weights")) == 7
    assert owner.read(sha256(b"weights"), 5, 100) == b"ts"
    assert isinstance(change.put, StoredName)
    owner.append(Change(HistoryEvent.DELETED, remove=change.put), "n", now(owner))
    assert owner.size(sha256(b"weights")) is None
    assert owner.read(sha256(b"weights"), 0, 100) == b""
    assert files(store) == 0


def test_an_upload_is_added_to_at_its_end_only(owner: LocalOwner, store: Store) -> None:
    assert owner.put("t", 3, b"def") == 0, "what was before it is lost"
    assert owner.put("t", 0, b"abc") == 3
    assert owner.put("t", 0, b"abc") == 3, "it came before"
    assert owner.put("t", 3, b"def") == 6
    assert owner.seal("t", sha256(b"abcdef"))
    assert owner.seal("t", sha256(b"abcdef")), "whose answer was lost"
    assert not owner.seal("t", sha256(b"other"))
    assert not owner.seal("never", sha256(b"abcdef"))


def test_other_bytes_than_were_told_are_forgotten(owner: LocalOwner, store: Store) -> None:
    owner.put("t", 0, b"abc")
    assert not owner.seal("t", sha256(b"def"))
    assert files(store) == 0


def test_an_upload_beyond_the_limit_is_refused(owner: LocalOwner, store: Store) -> None:
    owner.put("t", 0, bytes(1000))
    with pytest.raises(BlobTooLarge) as caught:
        owner.put("t", 1000, b"x")
    assert str(passed_on(caught.value)) == str(caught.value)
    assert files(store) == 0


def test_what_nobody_finishes_or_names_is_forgotten(
    owner: LocalOwner, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.put("half", 0, b"abc")
    assert bring(owner, b"whole")
    assert files(store) == 2
    monkeypatch.setattr(depot, "STALE_S", -1.0)
    owner.append(named("a", b"config", b"weights"), "m", now(owner))
    assert files(store) == 0


def test_only_digests_lead_to_files(owner: LocalOwner) -> None:
    for wrong in ("../../catalogue.sqlite", "A" * 64, ""):
        with pytest.raises(StoreError):
            owner.read(wrong, 0, 100)
        with pytest.raises(StoreError):
            owner.size(wrong)


def test_a_question_waits_for_something_new(owner: LocalOwner) -> None:
    start = now(owner)
    begun = time.monotonic()
    assert owner.since(start, 0.1, "a").position == start
    assert time.monotonic() - begun >= 0.1
    for content in (b"config", b"weights"):
        assert bring(owner, content)
    change = threading.Timer(0.1, owner.append, (named("a", b"config", b"weights"), "m", start))
    change.start()
    begun = time.monotonic()
    batch = owner.since(start, 30, "a")
    assert time.monotonic() - begun < 10, "and is answered then"
    assert [each.name for each in batch.names] == ["a"]
    assert passed_on(batch) == batch
    with pytest.raises(FrozenInstanceError):
        batch.since = 1  # type: ignore[misc]
    change.join()


def test_a_change_has_reached_all_that_were_heard_of_lately(
    owner: LocalOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = now(owner)
    monkeypatch.setattr(owners, "HEARD_S", 0.3)
    for content in (b"config", b"weights"):
        assert bring(owner, content)
    owner.append(named("a", b"config", b"weights"), "m", start)
    for follower in ("a", "b"):
        owner.since(start, 0, follower)
    owner.since(now(owner), 0, "a")
    assert not owner.reached(1, 0.05), "b has not asked from there on"
    asking = threading.Timer(0.05, owner.since, (now(owner), 0, "b"))
    asking.start()
    assert owner.reached(1, 0.25)
    asking.join()
    owner.since(start, 0, "c")
    time.sleep(0.4)
    assert owner.reached(1, 0), "whoever is gone is waited for no more"


@pytest.mark.parametrize("module", ["owner", "follower", "registry"])
def test_it_needs_no_torch(module: str) -> None:
    code = f"import lorikeet_adapters.{module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_remembers_what_was_given(owner: LocalOwner) -> None:
    owner.remember_embedded({"formal": "g"})
    assert owner.embedded() == {"formal": "g"}
