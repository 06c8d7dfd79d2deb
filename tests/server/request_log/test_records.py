"""Records in their file: what is written is read, found, judged, removed, and goes when its time is over."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lorikeet_adapters.errors import StoreError
from lorikeet_server.errors import RequestNotFound, ServerBusy
from lorikeet_server.request_log.record import Rating, Record, Selection
from lorikeet_server.request_log.records import FILE, LOOKED_THROUGH, PAGE_BYTES, Records, _where
from tests.server.kept import record

ALL = Selection()
MOST = 1 << 30
CHAT = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": 'Größe "L"?\nPlease'})


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    with closing(Records(tmp_path)) as made:
        yield made


def add(records: Records, *made: Record) -> None:
    records.add(made, 0.0, MOST)


def ids(records: Records, selection: Selection, owner: str | None = None) -> list[str]:
    return [each.id for each in records.page(owner, selection, 100)]


def test_what_is_written_is_read(records: Records) -> None:
    made = [record(messages=CHAT), record(prompt="", answer="\0 and more"), record(tenant="acme", key="ci")]
    add(records, *made)
    assert records.page(None, ALL, 10) == made[::-1]
    assert list(records.each(None, ALL)) == made
    assert records.get(made[0].id, None) == made[0]


def test_pages_go_on_behind_a_record_and_end_with_one_that_is_gone(records: Records) -> None:
    made = [record(tenant=("acme", "beta")[at % 2]) for at in range(7)]
    add(records, *made)
    newest = [each.id for each in made[::-1]]
    first = records.page(None, ALL, 3)
    assert [each.id for each in first] == newest[:3]
    assert [each.id for each in records.page(None, ALL, 9, first[-1].id)] == newest[3:]
    assert [each.id for each in records.page("acme", ALL, 9, made[4].id)] == [made[2].id, made[0].id]
    assert records.page("acme", ALL, 9, made[5].id) == []
    assert records.page(None, ALL, 9, "req-none") == []


def test_a_page_ends_early_where_texts_are_long_and_says_that_there_is_more(records: Records) -> None:
    made = [record(answer="x" * (PAGE_BYTES // 2 - 100)) for _ in range(4)] + [
        record(answer="x" * PAGE_BYTES)
    ]
    add(records, *made)
    newest = made[::-1]
    assert records.some(None, ALL, 4) == (newest[:1], True)  # one alone, however long
    assert records.some(None, ALL, 4, newest[0].id) == (newest[1:3], True)
    assert records.some(None, ALL, 2, newest[2].id) == (newest[3:], False)
    assert records.some(None, ALL, 1, newest[2].id) == (newest[3:4], True)
    assert records.some(None, ALL, 9, newest[4].id) == ([], False)


def test_an_id_is_looked_up_whoever_asks(records: Records) -> None:
    """Not by going through all that a tenant has."""
    for owner in (None, "acme"):
        where, values = _where(owner, Selection(ids=("req-1",)))
        plan = records._database.read(f"EXPLAIN QUERY PLAN SELECT place FROM requests WHERE {where}", values)
        assert "sqlite_autoindex_requests_1 (id=?)" in str(plan), plan


def test_a_file_that_another_process_holds_costs_one_answer(records: Records, tmp_path: Path) -> None:
    add(records, made := record())
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServerBusy, match="request log cannot be used now"):
            records.judge(made.id, None, Rating.UP, None)
    assert records.judge(made.id, None, Rating.UP, None).rating is Rating.UP


def test_a_text_is_found_in_prompts_messages_and_answers_alone(records: Records) -> None:
    chat, text = record(messages=CHAT, answer="Both."), record(prompt="100% *sure*", answer="ÜBER it")
    add(records, chat, text)
    for sought in ("grösse", "GRÖßE", 'größe "l"?\np', "be KIND", "both"):
        assert ids(records, Selection(text=sought)) == ([] if sought == "grösse" else [chat.id])
    for sought in ("0% *S", "über"):
        assert ids(records, Selection(text=sought)) == [text.id]
    for sought in ("role", "system", "formal", "u%r", "*", "s?re")[:4]:
        assert ids(records, Selection(text=sought)) == []
    assert ids(records, Selection(text="*")) == [text.id]


def test_filters_hold_together(records: Records) -> None:
    made = [record(model=model, tenant=tenant) for model in ("a", "A") for tenant in ("acme", "")]
    add(records, *made)
    records.judge(made[0].id, None, Rating.UP, None)
    assert ids(records, Selection(model="a")) == [made[1].id, made[0].id]
    assert ids(records, Selection(model="a", rating=Rating.NONE)) == [made[1].id]
    assert ids(records, Selection(rating=Rating.UP), "acme") == [made[0].id]
    assert ids(records, Selection(ids=(made[0].id, made[1].id, "req-none")), "acme") == [made[0].id]


def test_what_is_looked_through_in_pieces_is_found_whole(records: Records) -> None:
    """More than one piece; the first places are gone, and some in the middle."""
    made = [record(created=at, answer=f"{at % 7} of 7") for at in range(3 * LOOKED_THROUGH)]
    records.add(made, 50.0, MOST)
    for gone in made[LOOKED_THROUGH : LOOKED_THROUGH + 40]:
        records.delete(gone.id, None)
    left = [each for each in made[50:] if not LOOKED_THROUGH <= each.created < LOOKED_THROUGH + 40]
    assert records.page(None, ALL, 9999) == left[::-1]
    assert list(records.each(None, ALL)) == left
    fit = [each for each in left if each.answer.startswith("3")]
    assert records.page(None, Selection(text="3 OF"), 9999) == fit[::-1]
    assert records.page(None, Selection(text="3 OF"), 300, fit[-100].id) == fit[-101:-401:-1]
    assert list(records.each(None, Selection(text="3 OF"))) == fit


def test_a_judgement_changes_what_it_says_and_no_more(records: Records) -> None:
    made = record()
    add(records, made)
    judged = records.judge(made.id, None, Rating.DOWN, "Better.")
    assert (judged.rating, judged.correction, judged.answer) == (Rating.DOWN, "Better.", made.answer)
    assert records.judge(made.id, None, None, None) == judged
    assert records.judge(made.id, None, Rating.NONE, None).correction == "Better."
    assert records.judge(made.id, None, None, "") == made


@pytest.mark.safety("security 17")
def test_another_tenants_record_is_none(records: Records) -> None:
    made = record(tenant="acme")
    add(records, made)
    for owner in ("beta", ""):
        assert records.page(owner, ALL, 9) == list(records.each(owner, ALL)) == []
        with pytest.raises(RequestNotFound):
            records.get(made.id, owner)
        with pytest.raises(RequestNotFound):
            records.judge(made.id, owner, Rating.UP, None)
        with pytest.raises(RequestNotFound):
            records.delete(made.id, owner)
    assert records.get(made.id, "acme") == made


@pytest.mark.safety("security 17")
def test_what_is_removed_is_no_longer_in_the_file(records: Records, tmp_path: Path) -> None:
    long = "unforgettable " * 500
    made = [record(answer=long), record(answer="kept")]
    add(records, *made)
    assert long.encode()[:4000] in (tmp_path / FILE).read_bytes()
    records.delete(made[0].id, None)
    assert b"unforgettable" not in (tmp_path / FILE).read_bytes()
    assert ids(records, ALL) == [made[1].id]
    with pytest.raises(RequestNotFound):
        records.delete(made[0].id, None)


@pytest.mark.safety("security 17")
def test_what_is_too_old_goes(records: Records, tmp_path: Path) -> None:
    made = [record(created=at, answer=f"number {at}") for at in (1.0, 2.0, 3.0)]
    add(records, *made)
    records.retain(2.0, MOST)
    assert ids(records, ALL) == [made[2].id, made[1].id]
    records.add([record(created=9.0)], 3.0, MOST)
    assert len(ids(records, ALL)) == 2
    assert b"number 2" not in (tmp_path / FILE).read_bytes()


@pytest.mark.safety("security 17")
def test_the_file_stays_within_its_bytes_and_the_oldest_go(records: Records, tmp_path: Path) -> None:
    """What one transaction brings in stands beside what goes for it, so the file may be over by so much."""
    most, each = 400_000, 20_000
    made = [record(created=at, answer=chr(97 + at % 26) * each) for at in range(60)]
    for one in made:
        records.add([one], 0.0, most)
        assert (tmp_path / FILE).stat().st_size <= most + 2 * each
    left = ids(records, ALL)
    assert left == [one.id for one in made[: -len(left) - 1 : -1]]
    assert 15 <= len(left) <= 20
    records.retain(0.0, most // 4)
    assert 2 <= len(ids(records, ALL)) < len(left) // 3
    records.shrink()
    assert (tmp_path / FILE).stat().st_size <= most // 4
    records.retain(0.0, 1)
    assert ids(records, ALL) == []


@pytest.mark.safety("security 17")
def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).touch(0o666)
    with closing(Records(tmp_path)) as records:
        add(records, record())
        assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}


def test_a_file_of_a_newer_lorikeet_and_one_that_is_damaged_are_refused(tmp_path: Path) -> None:
    with closing(Records(tmp_path)) as records:
        add(records, record())
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"schema version 99, this Lorikeet knows up to 1; use a newer one"):
        Records(tmp_path)
    (tmp_path / FILE).write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match=r"cannot be read: .*; restore requests.sqlite, or remove it"):
        Records(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"something else" * 1000
