"""The data folder: what was acknowledged is there, whole, whatever happened since."""

from __future__ import annotations

import fcntl
import io
import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lorikeet_adapters.access import EVERYONE
from lorikeet_adapters.catalogue import MIGRATIONS
from lorikeet_adapters.errors import BlobTooLarge, StoreError, StoreLocked
from lorikeet_adapters.lock import hold, holder_url
from lorikeet_adapters.mix import Term
from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store, open_store
from tests.adapters.bundles import WordChecker, bundle, check_store


@pytest.mark.safety("security 8")
@pytest.mark.parametrize(
    "digest",
    ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 63 + "\n", "../" * 21 + "a", "é" * 64, "٣" * 64],
)
def test_a_path_is_made_of_hex_digits_only(tmp_path: Path, digest: str) -> None:
    with Store(tmp_path) as store, pytest.raises(StoreError):
        store.blobs.path(digest)


def put(store: Store, content: bytes) -> Path:
    """A blob that no catalogue names, as a kill leaves it."""
    return store.blobs.path(store.blobs.put(io.BytesIO(content), 1 << 20))


def test_a_blob_cannot_be_written_to(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert put(store, b"x").stat().st_mode & 0o777 == 0o444


def test_the_base_last_served_is_remembered(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.notes.base() is None
        store.notes.remember_base(ServedBase("folder/one", "one"))
        store.notes.remember_base(second := ServedBase("folder/two", "two", "nf4", "f" * 64))
    with Store(tmp_path) as store:
        assert store.notes.base() == second


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


def test_a_folder_of_the_first_schema_is_opened_with_everything_everyones(tmp_path: Path) -> None:
    """Adapters, aliases, history and answers of a folder that knows of no tenants."""
    (tmp_path / "blobs").mkdir()
    old = sqlite3.connect(tmp_path / "catalogue.sqlite")
    facts = '{"ranks": {"q": 2}, "bytes": 8, "warnings": []}'
    details = '{"pinned": true, "metadata": {"a": 1}, "source": {}, "warnings": [], "provenance": null}'
    old.executescript(MIGRATIONS[0])
    old.execute("INSERT INTO generations VALUES ('g', 'c', 'w', ?, '', '[]')", (facts,))
    old.execute("INSERT INTO names VALUES ('formal', ?, 1.5)", (details,))
    old.execute("INSERT INTO kept VALUES ('formal', 0, 'g')")
    old.execute("INSERT INTO history VALUES (7, 'formal', 'registered', 'g', '[]', 1.5)")
    old.execute("INSERT INTO answers VALUES ('once', 'd', 'told', ?)", (time.time(),))
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    for _ in range(2):  # as it is migrated, and as it is from then on
        with Store(tmp_path) as store:
            (name,) = store.catalogue.names()
            assert name.details == {**json.loads(details), "tenants": None, "shared_after": 7}
            assert name.access == EVERYONE
            assert [each.id for each in store.catalogue.history("formal", 9)] == [7]
            assert store.notes.answer("", "once") == ("d", "told")
            assert store.notes.answer("acme", "once") is None


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
        orphan = put(store, b"orphan")
    (tmp_path / "incoming" / "1-2-3").write_bytes(b"half")
    stranger = orphan.parent / ".nfs0001"
    stranger.write_bytes(b"a file of somebody else")
    with Store(tmp_path) as store:
        assert store.swept == len(b"orphan") + len(b"half")
    assert not orphan.exists()
    assert not list((tmp_path / "incoming").iterdir())
    assert stranger.exists()


def test_who_looks_is_never_taken_for_a_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is stopped while it has the lock; whoever wants to hold the folder then waits for its end."""
    Store(tmp_path).close()
    looking, tried, go_on = threading.Event(), threading.Event(), threading.Event()
    flock = fcntl.flock

    def stopping(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX and looking.is_set():
            tried.set()  # it will wait
        try:
            flock(file, how)
        finally:
            if how == fcntl.LOCK_EX | fcntl.LOCK_NB:
                tried.set()
        if how & fcntl.LOCK_SH:
            looking.set()
            assert go_on.wait(30)

    monkeypatch.setattr(fcntl, "flock", stopping)
    with ThreadPoolExecutor(2) as pool:
        look = pool.submit(holder_url, tmp_path)
        assert looking.wait(30)
        held = pool.submit(hold, tmp_path)
        assert tried.wait(30)
        go_on.set()
        held.result(30).close()
        assert look.result(30) is None


@pytest.mark.safety("security 7")
def test_a_file_beyond_the_bound_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path, max_blob_bytes=100) as store:
        registry = Registry(store, "base", WordChecker())
        with pytest.raises(BlobTooLarge, match="100 bytes"):
            registry.register("a", bundle("x" * 101))
        check_store(store, tmp_path)
        assert registry.register("a", bundle("x" * 100))[1]
        registry.close()


def test_what_the_janitor_cannot_do_is_said_and_done_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(tmp_path) as store:
        registry = Registry(store, "base", WordChecker(), keep=1)
        registry.register("a", bundle("one"))
        mix = registry.lease([Term("a", 1.0)])
        registry.register("a", bundle("two"), replace=True)
        monkeypatch.setattr(store, "free", lambda stored: 1 / 0)
        registry.release(mix)
        registry.close()
        assert "ZeroDivisionError" in caplog.text
    with Store(tmp_path) as store:
        check_store(store, tmp_path)


def test_a_folder_full_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"is no data folder: it holds 'thesis.tex'"):
        open_store(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_fresh_volume_and_a_start_cut_short_become_a_data_folder(tmp_path: Path) -> None:
    for name in ("lost+found", "incoming", ".snapshots"):
        (tmp_path / name).mkdir()
    (tmp_path / "keys.toml").write_text("")
    for _ in range(2):  # the second time it is one
        open_store(tmp_path).close()
