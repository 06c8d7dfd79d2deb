"""Deleting: it waits for running requests, says what came free, or changes nothing."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lorikeet_adapters.errors import AdapterInUse, AdapterNotFound
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.record import Freed, Memory
from lorikeet_adapters.stored import Target
from tests.adapters.bundles import bundle, check_store
from tests.adapters.world import PATIENCE, World, waiting

ON_DEVICE = Memory(device=100)


def test_deleting_one_of_two_names_keeps_the_bytes(world: World) -> None:
    generation = world.register("a", "one")
    world.register("b", "one")
    mix = world.lease(b=1.0)
    freed = world.registry.delete("a", timeout=PATIENCE)
    assert freed == Freed(0, Memory()), "nothing to wait for, nothing freed"
    assert not world.registry.is_name("a")
    assert world.retired == []
    world.registry.release(mix)
    assert world.registry.locate(generation).weights.read_text() == "one"
    size = sum(path.stat().st_size for path in (world.folder / "blobs").glob("*/*/*"))
    assert world.registry.delete("b", timeout=0) == Freed(size, ON_DEVICE)
    assert world.retired == [generation]
    assert world.blobs() == set()


def test_deleting_frees_the_bytes_and_says_how_many(world: World) -> None:
    generation = world.register("a", "one")
    world.register("b", "two")  # shares the config's blob, which stays
    assert world.registry.delete("a", timeout=0) == Freed(len("one"), ON_DEVICE)
    assert world.retired == [generation]
    with pytest.raises(AdapterNotFound):
        world.registry.locate(generation)
    check_store(world.store, world.folder)


def test_former_generations_go_with_the_name(tmp_path: Path) -> None:
    world = World(tmp_path, keep=3)
    generations = [world.register("a", words, replace=True) for words in ("one", "two", "three")]
    assert world.retired == generations[:2]
    assert world.registry.delete("a", timeout=0).memory == ON_DEVICE, "only the last was still near"
    assert world.retired == generations
    assert world.blobs() == set()
    world.close()


def test_an_engine_that_does_not_answer_leaves_the_memory_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorikeet_adapters.record.MEMORY_WAIT_S", 0.01)
    world.register("a", "one")
    world.registry.attach(lambda generation: Future(), lambda generation, pinned: None, rows=20)
    freed = world.registry.delete("a", timeout=0)
    assert freed.memory is None
    assert freed.disk > len("one")


def test_deleting_waits_for_leases(world: World, pool: ThreadPoolExecutor) -> None:
    generation = world.register("a", "one")
    mix = world.registry.lease([Term("a", 1.0)], count=2)
    begun = waiting(world.registry)
    deleting = pool.submit(world.registry.delete, "a", PATIENCE)
    assert begun.wait(PATIENCE)
    with pytest.raises(AdapterNotFound):
        world.lease(a=1.0)
    assert world.registry.record("a").leaving
    for change in (
        lambda: world.register("a", "two", replace=True),
        lambda: world.register("a", "one"),
        lambda: world.registry.delete("a", timeout=0),
        lambda: world.registry.update("a", pinned=True),
        lambda: world.registry.put_alias("b", [Target("a", None, 1)]),
    ):
        with pytest.raises(AdapterInUse, match="being deleted"):
            change()
    world.registry.release(mix)
    assert not deleting.done()
    assert world.registry.locate(generation).weights.read_text() == "one"
    assert world.retired == []
    world.registry.release(mix)
    freed = deleting.result(PATIENCE)
    assert freed.disk > len("one")
    assert freed.memory == ON_DEVICE
    assert world.retired == [generation]
    assert world.blobs() == set()


def test_a_deleter_is_told_what_was_freed_even_when_the_janitor_is_faster(
    world: World, pool: ThreadPoolExecutor
) -> None:
    """The last release wakes the deleter and may not let another free the bytes before it."""
    for turn in range(20):
        world.register("a", f"words {turn}")
        mix = world.lease(a=1.0)
        begun = waiting(world.registry)
        deleting = pool.submit(world.registry.delete, "a", PATIENCE)
        assert begun.wait(PATIENCE)
        with world.registry._writing:  # hold both back until the release is through
            pool.submit(world.registry.release, mix).result(PATIENCE)
        freed = deleting.result(PATIENCE)
        assert freed.disk, turn
        assert freed.memory == ON_DEVICE, turn


def test_requests_that_outlast_the_wait_leave_everything_as_it_was(world: World) -> None:
    generation = world.register("a", "one")
    before = world.registry.record("a")
    mix = world.lease(a=1.0)
    with pytest.raises(AdapterInUse, match="1 requests still use `a`"):
        world.registry.delete("a", timeout=0.01)
    again = world.lease(a=1.0)
    assert again == mix
    world.registry.release(again)
    world.registry.release(mix)
    after = world.registry.record("a")
    assert (after.generation, after.leaving, after.created) == (generation, False, before.created)
    assert world.retired == []
    assert world.registry.delete("a", timeout=0).disk > 0


def test_requests_on_a_former_generation_are_waited_for_too(tmp_path: Path) -> None:
    world = World(tmp_path, keep=2)
    world.register("a", "one")
    mix = world.lease(a=1.0)
    world.register("a", "two", replace=True)
    with pytest.raises(AdapterInUse):
        world.registry.delete("a", timeout=0)
    world.registry.release(mix)
    world.registry.delete("a", timeout=0)
    assert world.blobs() == set()
    world.close()


def test_the_same_bytes_under_another_name_end_the_wait(world: World, pool: ThreadPoolExecutor) -> None:
    world.register("a", "one")
    mix = world.lease(a=1.0)
    begun = waiting(world.registry)
    deleting = pool.submit(world.registry.delete, "a", PATIENCE)
    assert begun.wait(PATIENCE)
    world.register("b", "one")
    assert deleting.result(PATIENCE) == Freed(0, Memory())
    world.registry.release(mix)
    assert world.registry.record("b").leases == 0
    assert world.retired == []


def test_a_target_of_an_alias_is_not_deleted(world: World) -> None:
    world.register("a", "one")
    world.registry.put_alias("stable", [Target("a", None, 1)])
    with pytest.raises(AdapterInUse, match="`stable`"):
        world.registry.delete("a", timeout=0)
    assert world.lease(stable=1.0) == world.lease(a=1.0)
    world.registry.delete_alias("stable")
    with pytest.raises(AdapterInUse, match="2 requests"):
        world.registry.delete("a", timeout=0)


def test_a_name_is_deleted_once(world: World, pool: ThreadPoolExecutor) -> None:
    """Of many who delete at once, one is told that it did; and a replacement in between is not leaked."""
    for turn in range(10):
        world.register("a", f"words {turn}")
        start = threading.Barrier(4)

        def delete(start: threading.Barrier = start) -> None:
            start.wait(PATIENCE)
            world.registry.delete("a", timeout=PATIENCE)

        def replace(start: threading.Barrier = start, words: str = f"others {turn}") -> None:
            start.wait(PATIENCE)
            world.register("a", words, replace=True)

        running: list[Future[None]] = [pool.submit(delete) for _ in range(3)]
        running.append(pool.submit(replace))
        failures = [each.exception(PATIENCE) for each in running]
        assert all(each is None or isinstance(each, AdapterNotFound | AdapterInUse) for each in failures)
        if world.registry.is_name("a"):
            world.registry.delete("a", timeout=0)
        check_store(world.store, world.folder)
        assert world.blobs() == set()
    assert len(world.retired) == len(set(world.retired)), "each once"


def test_bytes_that_are_admitted_while_they_are_deleted_are_there_afterwards(
    world: World, pool: ThreadPoolExecutor
) -> None:
    """Another name takes the same bytes, finds the blobs in place, and must not lose them to the deletion."""
    world.register("a", "one")
    check = world.checker.__call__
    reached, go_on = threading.Event(), threading.Event()

    class Slow(type(world.checker)):  # type: ignore[misc]
        def __call__(self, *arguments: object) -> object:
            reached.set()
            assert go_on.wait(PATIENCE)
            return check(*arguments)  # type: ignore[arg-type]

    world.registry._admission._check = Slow()
    registering = pool.submit(world.registry.register, "b", bundle("two", rank=2))
    assert reached.wait(PATIENCE)  # its blobs are in place, one of them shared with `a`
    world.registry.delete("a", timeout=0)
    go_on.set()
    record, _ = registering.result(PATIENCE)
    assert world.registry.locate(record.generation).weights.read_text() == "two"
    check_store(world.store, world.folder)


def test_a_mix_of_a_deleted_and_a_living_adapter_ends_both_leases(world: World) -> None:
    gone, stays = world.register("a", "one"), world.register("b", "two")
    mix = world.lease(a=0.5, b=0.5)
    world.register("a", "three", replace=True)
    assert mix == Mix.of([Term(gone, 0.5), Term(stays, 0.5)])
    world.registry.release(mix)
    world.registry.close()
    assert world.retired == [gone]
    assert world.registry.record("b").leases == 0
    check_store(world.store, world.folder)


def test_a_deletion_that_gave_up_leaves_the_pin(world: World, pool: ThreadPoolExecutor) -> None:
    """Another change while it waits takes the pin of what is leaving from the engine."""
    generation = world.register("a", "one")
    world.registry.update("a", pinned=True)
    mix = world.lease(a=1.0)
    begun = waiting(world.registry)
    deleting = pool.submit(world.registry.delete, "a", 0.2)
    assert begun.wait(PATIENCE)
    world.register("b", "two")
    with pytest.raises(AdapterInUse):
        deleting.result(PATIENCE)
    assert world.registry.record("a").pinned
    assert world.pins[-1] == (generation, True)
    world.registry.release(mix)
