"""Going back to a former generation, compare-and-swap, what is said about a name, and the record of it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorikeet_adapters.errors import (
    AdapterChanged,
    AdapterConflict,
    AdapterIncompatible,
    AdapterNotFound,
    AdapterRefused,
    GenerationNotFound,
    PinRefused,
)
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.mix import BASE_MIX, Term
from lorikeet_adapters.record import AdapterFacts, no_memory
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Target
from tests.adapters.bundles import WordChecker, bundle, check_store
from tests.adapters.world import World


@pytest.fixture
def three(tmp_path: Path) -> Iterator[World]:
    """A world that keeps three generations of a name."""
    made = World(tmp_path, keep=3)
    yield made
    made.close()


def events(registry: Registry, name: str) -> list[str]:
    """The oldest first."""
    return [each.event.value for each in reversed(registry.history(name))]


def test_a_former_generation_comes_back_and_goes_again(three: World) -> None:
    old, new = three.register("a", "one"), three.register("a", "two", replace=True)
    record, changed = three.registry.activate("a", old)
    assert changed
    assert (record.generation, record.generations) == (old, (old, new))
    assert three.lease(a=1.0).adapters == (old,)
    assert three.registry.activate("a", old) == (three.registry.record("a"), False)
    assert three.registry.activate("a", new)[0].generation == new
    assert three.retired == [old, new], (
        "what no request can mean any more leaves the device; `old` again later"
    )
    assert events(three.registry, "a") == ["registered", "replaced", "rolled_back", "activated"]
    assert three.checker.read == ["one", "two"], "checked once each"


def test_the_oldest_generations_are_swept_from_disk(three: World) -> None:
    made = [three.register("a", f"words {turn}", replace=True) for turn in range(5)]
    assert three.registry.record("a").generations == tuple(reversed(made[2:]))
    with pytest.raises(GenerationNotFound):
        three.registry.activate("a", made[1])
    check_store(three.store, three.folder)
    assert len(three.blobs()) == 3 + 1, "and the config they share"


def test_registering_a_former_generation_again_is_as_good(three: World) -> None:
    old, new = three.register("a", "one"), three.register("a", "two", replace=True)
    assert three.register("a", "one", replace=True) == old
    assert three.registry.record("a").generations == (old, new)
    assert events(three.registry, "a") == ["registered", "replaced", "replaced"]


def test_history_outlives_the_name_and_the_process(tmp_path: Path) -> None:
    world = World(tmp_path, keep=2)
    one = world.register("a", "one")
    two = world.register("a", "two", replace=True)
    world.registry.activate("a", one)
    world.registry.delete("a", timeout=0)
    world.close()
    world = World(tmp_path)
    found = world.registry.history("a")
    assert [(each.event, each.generation) for each in reversed(found)] == [
        ("registered", one),
        ("replaced", two),
        ("rolled_back", one),
        ("deleted", one),
    ]
    assert [each.at for each in found] == sorted((each.at for each in found), reverse=True)
    assert world.registry.history("a", limit=2) == found[:2]
    assert world.registry.history("a", limit=9, before=found[1].id) == found[2:]
    with pytest.raises(AdapterNotFound):
        world.registry.history("b")
    world.close()


def test_a_rollback_survives_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, keep=3)
    old, new = world.register("a", "one"), world.register("a", "two", replace=True)
    world.registry.activate("a", old)
    world.close()
    world = World(tmp_path, keep=3)
    assert world.registry.record("a").generations == (old, new)
    world.close()


def test_compare_and_swap(three: World) -> None:
    with pytest.raises(AdapterChanged, match="no such adapter"):
        three.registry.register("a", bundle("one"), expected="*")
    one = three.register("a", "one")
    with pytest.raises(AdapterConflict):
        three.register("a", "two")
    record, changed = three.registry.register("a", bundle("two"), expected=one)
    assert changed
    with pytest.raises(AdapterChanged, match=record.generation):
        three.registry.register("a", bundle("three"), expected=one, replace=True)
    assert three.registry.register("a", bundle("two"), expected=one) == (record, False), (
        "what was wanted is so"
    )
    three.registry.register("a", bundle("three"), expected="*")
    for change in (
        lambda: three.registry.activate("a", one, expected=one),
        lambda: three.registry.update("a", pinned=True, expected=one),
        lambda: three.registry.delete("a", timeout=0, expected=one),
        lambda: three.registry.delete("b", timeout=0, expected="*"),
    ):
        with pytest.raises(AdapterChanged):
            change()
    assert not three.registry.record("a").pinned
    check_store(three.store, three.folder)


def test_pins_follow_the_name(three: World) -> None:
    one = three.register("a", "one")
    assert three.registry.update("a", pinned=True).pinned
    two = three.register("a", "two", replace=True)
    assert three.registry.record("a").pinned, "replacing the bytes keeps the pin"
    three.registry.update("a", pinned=False)
    three.registry.activate("a", one)
    assert three.pins == [(one, True), (one, False), (two, True), (two, False)]
    three.registry.register("b", bundle("three"), pinned=True)
    three.registry.delete("b", timeout=0)
    assert [pinned for _, pinned in three.pins[4:]] == [True, False]


def test_pins_are_told_again_after_a_restart(three: World) -> None:
    generation = three.registry.register("a", bundle("one"), pinned=True)[0].generation
    told: list[tuple[str, bool]] = []
    registry = Registry(three.store, "base", three.checker)
    registry.attach(three.retire, lambda *pin: told.append(pin), rows=20)
    assert told == [(generation, True)]


def test_what_is_said_changes_without_the_bytes(three: World) -> None:
    first, _ = three.registry.register("a", bundle("one"), metadata={"by": "me"}, provenance={"seed": 1})
    changed = three.registry.update("a", metadata={"by": "you"})
    assert changed.metadata == {"by": "you"}
    assert (changed.generation, changed.created, changed.provenance) == (
        first.generation,
        first.created,
        {"seed": 1},
    )
    three.registry.update("a", metadata={"by": "you"})
    assert events(three.registry, "a") == ["registered", "updated"], "no event where nothing changed"


def test_the_last_use_is_known_after_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.register("a", "one")
    world.register("b", "two")
    assert world.registry.record("a").last_used is None
    world.registry.release(world.lease(a=1.0))
    used = world.registry.record("a").last_used
    assert used is not None
    assert used >= world.registry.record("a").created
    world.close()
    world = World(tmp_path)
    assert world.registry.record("a").last_used == used
    assert world.registry.record("b").last_used is None
    world.close()


# Another base.


class Picky(WordChecker):
    """Refuses one text."""

    def __init__(self, refused: str) -> None:
        super().__init__()
        self.refused = refused

    def __call__(self, spec: AdapterSpec, weights: Path) -> AdapterFacts:
        facts = super().__call__(spec, weights)
        if self.read[-1] == self.refused:
            raise AdapterRefused(
                [Finding("shape_mismatch", "it is too wide", "train it again", "r", "q_proj")]
            )
        return facts


def test_another_base_checks_again_keeps_what_does_not_fit_and_refuses_it_by_name(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        registry = Registry(store, "base", checker := WordChecker(), fingerprint="x" * 64)
        one = registry.register("a", bundle("one"), pinned=True)[0].generation
        registry.register("b", bundle("two"))
        registry.register("a", bundle("two"), replace=True)
        registry.activate("a", one)
        registry.put_alias("stable", [Target("a", None, 1)])
        registry.close()
        assert Registry(store, "base", checker, fingerprint="x" * 64).is_name("a")
        assert checker.read == ["one", "two"], "the same base checks nothing again"
        assert Registry(store, "base", checker).is_name("a"), "nor does who knows no base"
    with Store(tmp_path) as store:
        registry = Registry(store, "base", picky := Picky("one"), fingerprint="y" * 64)
        pins: list[tuple[str, bool]] = []
        registry.attach(no_memory, lambda *pin: pins.append(pin), rows=20)
        assert pins == [], "what does not fit is not held on the device"
        assert sorted(picky.read) == ["one", "two"]
        record = registry.record("a")
        assert [each["code"] for each in record.findings] == ["shape_mismatch"]
        assert record.findings[0]["module"] == "q_proj"
        assert (record.generation, record.rank) == (one, 2), "what was known of it still is"
        for name in ("a", "stable"):
            with pytest.raises(AdapterIncompatible, match="too wide"):
                registry.lease([Term(name, 1.0)])
        with pytest.raises(AdapterRefused):
            registry.register("a", bundle("one"))
        assert registry.lease([Term("b", 1.0)]).adapters
        assert registry.activate("a", registry.record("b").generation)[1]
        with pytest.raises(AdapterIncompatible):
            registry.activate("a", one)
        registry.close()
        check_store(store, tmp_path)
    with Store(tmp_path) as store:
        registry = Registry(store, "base", WordChecker(), fingerprint="x" * 64)
        assert registry.activate("a", one)[0].findings == (), "the first base again: it fits again"


def test_a_base_served_under_a_taken_name_wins(three: World) -> None:
    """The base was renamed: its name means the base, and what had the name is still there."""
    three.register("a", "one")
    three.registry.put_alias("stable", [Target("a", None, 1)])
    for name in ("a", "stable"):
        registry = Registry(three.store, name, three.checker)
        assert registry.lease([Term(name, 1.0)]) == BASE_MIX
        assert registry.record("a").generations


def test_pins_that_need_too_many_rows_are_refused_and_change_nothing(three: World) -> None:
    three.registry.register("a", bundle("one", rank=12), pinned=True)
    before = three.registry.records()
    with pytest.raises(PinRefused, match="21 rank rows, there are 20"):
        three.registry.register("b", bundle("two", rank=9), pinned=True)
    with pytest.raises(PinRefused):
        three.registry.register("a", bundle("one", rank=21), replace=True)
    assert three.registry.records() == before
    check_store(three.store, three.folder)
    three.registry.register("b", bundle("two", rank=8), pinned=True)
    assert three.registry.update("a", pinned=False).pinned is False
