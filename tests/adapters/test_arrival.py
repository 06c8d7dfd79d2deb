"""Files on their way in: hashed as they come, and gone unless the store took them."""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.arrival import Intake
from lorikeet_adapters.store import Store


@pytest.mark.safety("security 8")
@given(st.lists(st.binary(max_size=100), max_size=10))
def test_an_arrival_is_hashed_piece_by_piece(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    intake = Intake(tmp_path_factory.getbasetemp() / "incoming")
    with intake.file() as arrival:
        for piece in pieces:
            arrival.write(piece)
        digest = arrival.seal()
        assert arrival.path.read_bytes() == b"".join(pieces)
        assert arrival.path.stat().st_mode & 0o777 == 0o444
        assert arrival.size == len(b"".join(pieces))
    assert digest == arrival.seal() == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert not arrival.path.exists()


def test_the_store_takes_an_arrival_without_copying_it(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with store.intake.file() as arrival:
            arrival.write(b"words")
            inode = arrival.path.stat().st_ino
            digest = store.blobs.put(arrival, 1 << 20)
        assert store.blobs.path(digest).stat().st_ino == inode
        assert store.blobs.path(digest).read_bytes() == b"words"
        with store.intake.file() as again:  # the same bytes are there already
            again.write(b"words")
            assert store.blobs.put(again, 1 << 20) == digest
        assert not list((tmp_path / "incoming").iterdir())


def test_what_is_dropped_leaves_nothing(tmp_path: Path) -> None:
    intake = Intake(tmp_path)
    with suppress(KeyError), intake.file() as arrival, intake.scratch() as folder:
        arrival.write(b"half")
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"x")
        raise KeyError
    with intake.take(io.BytesIO(b"stream"), 100) as taken:
        taken.seal()
        assert taken.path.read_bytes() == b"stream"
    assert not list(tmp_path.iterdir())


@pytest.mark.safety("reliability 6")
def test_a_start_sweeps_files_folders_and_links_and_follows_none(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    with Store(tmp_path / "data"):
        pass
    incoming = tmp_path / "data" / "incoming"
    (incoming / "file").write_bytes(bytes(10))
    (incoming / "folder" / "deep").mkdir(parents=True)
    (incoming / "folder" / "deep" / "file").write_bytes(bytes(30))
    (incoming / "link").symlink_to(outside)
    (incoming / "folder" / "link").symlink_to(outside)
    with Store(tmp_path / "data") as store:
        assert store.swept >= 40
    assert not list(incoming.iterdir())
    assert (outside / "kept").read_bytes() == b"kept"
