"""Several registries that are one: changes made at any, seen at all, one after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lorikeet_adapters import follower, shared
from lorikeet_adapters.errors import (
    AdapterChanged,
    AdapterConflict,
    AdapterInUse,
    AdapterNotFound,
    GenerationNotFound,
    LorikeetError,
    NameTaken,
    PinRefused,
    RegistryAway,
)
from lorikeet_adapters.shared import SharedLedger
from lorikeet_adapters.stored import Target
from tests.adapters.bundles import bundle, check_store
from tests.adapters.replicas import Line, Replica, contents, nothing
from tests.adapters.world import PATIENCE, World, waiting

SOON_S = 2.0


@pytest.fixture(autouse=True)
def nobody_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most replicas here have no thread that follows; those tests that have wait as ever."""
    monkeypatch.setattr(shared, "REACHED_S", 0.0)
    monkeypatch.setattr(shared, "AGAIN_S", 0.01)
    monkeypatch.setattr(follower, "POLL_S", 0.2)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "owner")
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path, line: Line) -> Iterator[tuple[Replica, Replica]]:
    made = Replica(tmp_path / "a", line), Replica(tmp_path / "b", line)
    yield made
    for each in made:
        each.close()


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not is_so() and time.monotonic() < ends:
        time.sleep(0.01)
    return is_so()


def test_a_change_is_served_everywhere_when_it_is_acknowledged(
    pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "REACHED_S", 5.0)
    here, there = pair
    for each in pair:
        each.start()
    generation = here.register("a", "one")
    assert there.lease(a=1.0).adapters == (generation,)
    assert there.registry.locate(generation).weights.read_text() == "one"
    there.registry.put_alias("stable", [Target("a", None, 1)])
    assert [each.name for each in here.registry.aliases()] == ["stable"]
    there.registry.delete_alias("stable")
    here.registry.update("a", pinned=True)
    assert there.pins == [(generation, True)]
    there.registry.release(there.lease(a=1.0))


def test_who_asked_for_nothing_new_is_told_soon(pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    there.start()
    assert wait_until(lambda: there.follower.lag < SOON_S, SOON_S)
    generation = here.register("a", "one")
    assert wait_until(lambda: there.meanings() == {"a": generation}, SOON_S)
    assert there.follower.sequence == here.follower.sequence == 1
    here.registry.delete("a", timeout=0)
    assert wait_until(lambda: not there.meanings(), SOON_S)


def test_all_have_the_same_history_in_the_same_order(line: Line, pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    for turn in range(4):
        here.register("a", f"here {turn}", replace=True)
        there.register("a", f"there {turn}", replace=True)
        there.registry.put_alias("x", [Target("a", None, 1 + turn)])
    here.step()
    here.registry.activate("a", here.registry.record("a").generations[1])
    for each in pair:
        each.step()
        assert contents(each.store) == contents(line.store)
    assert [each.id for each in here.registry.history("a")] == [13, 11, 10, 8, 7, 5, 4, 2, 1]
    assert len(line.store.catalogue.generations()) == 2, "the owner keeps what names keep, and no more"
    check_store(line.store, line.folder)


def test_a_replica_begins_with_all_there_is(
    tmp_path: Path, line: Line, pair: tuple[Replica, Replica]
) -> None:
    here, _ = pair
    here.register("a", "one")
    here.register("b", "two")
    here.registry.delete("b", timeout=0)
    here.registry.put_alias("stable", [Target("a", None, 1)])
    late = Replica(tmp_path / "late", line)
    assert late.registry.records() == []
    late.step()
    assert contents(late.store) == contents(line.store)
    assert late.checker.read == [], "judged by another replica on the same base"
    late.close()
    late = Replica(tmp_path / "late", line)
    assert late.meanings() == here.meanings(), "and serves it at once the next time"
    late.close()


def test_only_what_changed_travels(line: Line, pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    here.register("a", "one")
    there.step()
    line.calls.clear()
    here.registry.update("a", pinned=True)
    there.step()
    assert set(line.calls) == {"append", "reached", "since"}


# What several decide at once.


def test_a_conflict_is_answered_as_by_one_registry(pair: tuple[Replica, Replica]) -> None:
    """Each time the other replica has changed something that this one does not know yet."""
    here, there = pair
    there.step()
    one = here.register("a", "one")
    with pytest.raises(AdapterConflict):
        there.register("a", "two")
    assert there.register("a", "one") == one, "the same bytes are no conflict"
    two = here.register("a", "two", replace=True)
    with pytest.raises(AdapterChanged):
        there.registry.register("a", bundle("three"), expected=one)
    there.step()
    here.register("a", "three", replace=True)
    with pytest.raises(AdapterChanged):
        there.registry.update("a", pinned=True, expected=two)
    here.register("a", "four", replace=True)
    with pytest.raises(GenerationNotFound):
        there.registry.activate("a", two)
    here.registry.put_alias("x", [Target("a", None, 1)])
    with pytest.raises(AdapterInUse, match="alias `x`"):
        there.registry.delete("a", timeout=0)
    with pytest.raises(NameTaken):
        there.register("x", "five")
    here.registry.delete_alias("x")
    with pytest.raises(AdapterNotFound):
        there.registry.delete_alias("x")
    here.registry.delete("a", timeout=0)
    with pytest.raises(AdapterNotFound):
        there.registry.delete("a", timeout=0)


def test_changes_of_several_at_once_are_all_made(tmp_path: Path, line: Line) -> None:
    made = [Replica(tmp_path / str(number), line) for number in range(3)]
    for each in made:
        each.start()

    def change(number: int) -> None:
        for turn in range(6):
            made[number].register(f"own-{number}", f"{number} {turn}", replace=True)
            made[number].register("shared", f"{number} {turn}", replace=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(change, range(3)))
    for each in made:
        each.step()
        assert contents(each.store) == contents(line.store)
    assert line.store.catalogue.newest() == 36
    for each in made:
        each.close()


def test_a_deletion_waits_for_its_own_requests_and_takes_the_name_as_it_is_then(
    pair: tuple[Replica, Replica], pool: ThreadPoolExecutor
) -> None:
    here, there = pair
    here.register("a", "one")
    mix = here.lease(a=1.0)
    begun = waiting(here.registry)
    deleting = pool.submit(here.registry.delete, "a", PATIENCE)
    assert begun.wait(PATIENCE)
    there.step()
    there.registry.delete("a", timeout=0)
    there.step()
    here.step()
    with pytest.raises(AdapterNotFound):
        deleting.result(PATIENCE)
    here.registry.release(mix)
    assert here.meanings() == {}


def test_a_running_request_keeps_its_generation(pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    one = here.register("a", "one")
    there.step()
    mix = there.lease(a=1.0)
    for words in ("two", "three"):
        here.register("a", words, replace=True)
    there.step()
    assert there.lease(a=1.0).adapters != (one,)
    assert there.registry.locate(one).weights.read_text() == "one"
    assert there.retired == []
    here.registry.delete("a", timeout=0)
    there.step()
    assert there.registry.locate(one).weights.read_text() == "one"
    there.registry.release(mix)
    there.registry._usage._janitor.submit(lambda: None).result()
    assert one in there.retired
    with pytest.raises(AdapterNotFound):
        there.registry.locate(one)


def test_what_does_not_fit_on_the_device_is_refused_before_the_owner_hears_of_it(
    line: Line, pair: tuple[Replica, Replica]
) -> None:
    here, there = pair
    here.registry.register("a", bundle("one", rank=12), pinned=True)
    there.step()
    with pytest.raises(PinRefused):
        there.registry.register("b", bundle("two", rank=9), pinned=True)
    assert line.store.catalogue.newest() == 1
    assert contents(there.store) == contents(line.store)


def test_a_batch_that_was_overtaken_while_its_files_came_is_dropped(
    line: Line, pair: tuple[Replica, Replica], pool: ThreadPoolExecutor
) -> None:
    here, there = pair
    here.step()
    there.register("a", "one")
    asked, go_on = threading.Event(), threading.Event()

    def fetching(method: str) -> None:
        if method == "size":
            line.after_call = nothing
            asked.set()
            assert go_on.wait(PATIENCE)

    def unheard(method: str) -> None:
        if method == "append":
            line.before_call = nothing
            raise RegistryAway("it did not get there")

    line.after_call, line.before_call = fetching, unheard
    assert isinstance(here.registry.ledger, SharedLedger)
    following = pool.submit(here.registry.ledger.step, 0)
    assert asked.wait(PATIENCE)
    here.register("b", "two")  # which finds out for itself what the answer was
    go_on.set()
    assert not following.result(PATIENCE)
    assert set(here.meanings()) == {"a", "b"}
    assert contents(here.store) == contents(line.store)


# An owner that is away, and answers that are lost.


def test_while_the_owner_is_away_requests_are_served_and_nothing_changes(
    line: Line, pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "PATIENCE_S", 0.05)
    here, there = pair
    one = here.register("a", "one")
    there.step()
    line.is_cut = True
    before = contents(here.store)
    changes: list[Callable[[], object]] = [
        lambda: here.register("b", "two"),
        lambda: here.register("a", "two", replace=True),
        lambda: here.registry.delete("a", timeout=0),
        lambda: here.registry.put_alias("x", [Target("a", None, 1)]),
        lambda: here.registry.update("a", pinned=True),
    ]
    for change in changes:
        with pytest.raises(RegistryAway):
            change()
    with pytest.raises(AdapterConflict):
        here.register("a", "two")
    assert here.register("a", "one") == one, "what is so already needs nobody"
    assert contents(here.store) == before
    assert here.lease(a=1.0).adapters == there.lease(a=1.0).adapters == (one,)
    line.is_cut = False
    assert here.register("b", "two") == there.registry.register("b", bundle("two"))[0].generation


def test_a_change_waits_for_an_owner_that_comes_back(
    line: Line, pair: tuple[Replica, Replica], pool: ThreadPoolExecutor
) -> None:
    here, _ = pair
    line.is_cut = True
    changing = pool.submit(here.register, "a", "one")
    assert not wait_until(changing.done, 0.1)
    line.is_cut = False
    assert changing.result(PATIENCE) == here.registry.record("a").generation


def test_the_follower_outlasts_the_owner_and_says_so_once(
    line: Line, pair: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair
    there.start()
    here.step()
    line.is_cut = True
    assert wait_until(lambda: "cannot follow" in caplog.text, PATIENCE)
    time.sleep(0.7)  # it tries again a few times
    line.is_cut = False
    line.kill()
    here.register("a", "one")
    assert wait_until(lambda: "a" in there.meanings(), PATIENCE)
    assert wait_until(lambda: "again" in caplog.messages[-1], SOON_S)
    told = [each for each in caplog.messages if "shared registry" in each]
    assert ["cannot follow" in each for each in told] == [True, False]


@pytest.mark.parametrize("others", [False, True], ids=["alone", "and another changes something"])
@pytest.mark.parametrize("what", ["register", "replace", "activate", "update", "alias", "unalias", "delete"])
def test_a_change_whose_answer_is_lost_is_made_once(
    line: Line, pair: tuple[Replica, Replica], what: str, others: bool
) -> None:
    here, there = pair
    one = here.register("a", "one")
    here.register("a", "two", replace=True)
    here.registry.put_alias("x", [Target("a", None, 1)])
    here.registry.put_alias("y", [Target("a", None, 1)])
    here.registry.delete_alias("y")
    here.register("b", "three")
    there.step()

    def dies(method: str) -> None:
        if method == "append":
            line.after_call = nothing
            line.kill()
            if others:
                there.register("b", "four", replace=True)
            raise RegistryAway("the owner died before it answered")

    line.after_call = dies
    changes: dict[str, Callable[[], object]] = {
        "register": lambda: here.registry.register("new", bundle("new"))[1],
        "replace": lambda: here.registry.register("a", bundle("new"), replace=True)[1],
        "activate": lambda: here.registry.activate("a", one, expected="*")[1],
        "update": lambda: here.registry.update("a", metadata={"by": "me"}).metadata == {"by": "me"},
        "alias": lambda: here.registry.put_alias("new", [Target("a", None, 1)])[1],
        "unalias": lambda: here.registry.delete_alias("x") is None,
        "delete": lambda: here.registry.delete("b", timeout=0).disk > 0,
    }
    before = line.store.catalogue.newest()
    assert changes[what]() is True
    assert line.store.catalogue.newest() == before + 1 + others
    for each in pair:
        each.step()
        assert contents(each.store) == contents(line.store)


def test_a_change_that_was_not_made_before_the_owner_died_is_made_after(
    line: Line, pair: tuple[Replica, Replica]
) -> None:
    here, there = pair
    there.step()

    def dies(method: str) -> None:
        if method == "seal":
            line.after_call = nothing
            line.kill()
            there.register("b", "two")
            raise RegistryAway("the owner died")

    line.after_call = dies
    generation = here.register("a", "one")
    assert here.meanings()["a"] == generation
    assert line.calls.count("seal") > 2, "the files had to be brought again"
    assert [each.id for each in here.registry.history("a")] == [2]


# Files.


def test_files_that_arrive_as_others_are_refused_and_asked_for_again(
    line: Line, pair: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair
    there.start()
    line.spoil = lambda piece: piece[:-1] + b"?"
    generation = here.register("a", "one")
    assert wait_until(lambda: "is not the blob" in caplog.text, PATIENCE)
    assert there.meanings() == {}
    check_store(there.store, there.folder, tidy=False)
    line.spoil = lambda piece: piece[:-1]
    assert not wait_until(lambda: bool(there.meanings()), 0.5)
    line.spoil = lambda piece: piece
    assert wait_until(lambda: there.meanings() == {"a": generation}, PATIENCE)


def test_large_files_travel_in_pieces(
    line: Line, pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("owner", "transfer"):
        monkeypatch.setattr(f"lorikeet_adapters.{module}.PIECE_BYTES", 1000)
    here, there = pair
    words = "long " * 1000
    line.lose_answer_of = "put"  # the piece is there, and nobody knows
    generation = here.register("a", words)
    there.step()
    assert there.registry.locate(generation).weights.read_text() == words
    assert line.calls.count("put") >= 7
    assert line.calls.count("read") >= 5


def test_what_is_freed_while_it_is_fetched_is_not_missed(line: Line, pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    here.register("a", "one")
    here.register("b", "two")

    def replaced(method: str) -> None:
        if method == "size":
            line.after_call = nothing
            here.registry.delete("b", timeout=0)
            here.register("a", "three", replace=True)
            here.register("a", "four", replace=True)

    line.after_call = replaced
    there.step()
    assert there.meanings() == here.meanings()
    assert contents(there.store) == contents(line.store)


def test_a_change_that_is_refused_leaves_no_files_behind(line: Line, pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    here.step()
    there.register("a", "one")
    with pytest.raises(LorikeetError):
        here.register("a", "two")
    for folder in (here.folder, line.folder):
        assert len(list((folder / "blobs").glob("*/*/*"))) == 2
        assert not list((folder / "incoming").iterdir())


def test_one_process_alone_asks_nobody(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.registry.follower is None
    world.register("a", "one")
    world.close()
