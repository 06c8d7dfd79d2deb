"""Pins when there are fewer rank rows than the pinned need: what a start can find, though no change makes it so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorikeet_adapters.errors import AccessRefused, PinRefused
from lorikeet_adapters.view import View
from tests.adapters.bundles import bundle
from tests.adapters.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def pin(world: World, *ranks: int) -> list[str]:
    """Registers a, b, ... of these ranks, all pinned; their generations."""
    return [
        world.registry.register(name, bundle(name, rank), pinned=True)[0].generation
        for name, rank in zip("abcd", ranks, strict=False)
    ]


def told(world: World, rows: int) -> set[str]:
    """What an engine of so many rows is told to keep on the device."""
    world.pins.clear()
    world.registry.attach(world.retire, lambda *each: world.pins.append(each), rows)
    assert all(pinned for _, pinned in world.pins)
    return {generation for generation, _ in world.pins}


def test_an_engine_is_never_told_to_pin_more_than_it_has(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = dict(zip(pin(world, 6, 5, 4), (6, 5, 4), strict=True))
    assert told(world, 15) == ranks.keys()
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    assert 0 < sum(ranks[each] for each in told(world, 10)) <= 10
    assert "need 15 rank rows, there are 10" in caplog.text
    assert told(world, 3) == set()
    assert all(record.pinned for record in world.registry.records()), "the operator's word stands"


def test_what_was_left_out_comes_when_there_is_room(world: World) -> None:
    names = dict(zip(pin(world, 6, 6), "ab", strict=True))
    (first,) = told(world, 8)
    (other,) = names.keys() - {first}
    with pytest.raises(PinRefused):
        world.registry.register("c", bundle("c", 1), pinned=True)
    assert len(world.pins) == 1
    world.registry.update(names[first], pinned=False)
    assert world.pins[1:] == [(first, False), (other, True)]


def test_a_tenant_leaves_pins_as_they_are_and_what_is_pinned_no_larger(tmp_path: Path) -> None:
    """However it would grow: by other bytes, or by going back to those before."""
    world = World(tmp_path, keep=3)
    acme, operator = View(world.registry, "acme"), View(world.registry, None)
    with pytest.raises(AccessRefused, match="pinned"):
        acme.register("mine", bundle("one", rank=8), pinned=True)
    wide = acme.register("mine", bundle("one", rank=8))[0].generation
    acme.register("mine", bundle("two", rank=4), replace=True)
    for view, pinned in ((operator, True), (acme, True), (acme, None)):
        assert view.update("mine", pinned=pinned, metadata={"by": view.tenant or "us"}).pinned
    before = world.registry.record("mine")
    for refused in (
        lambda: acme.update("mine", pinned=False),
        lambda: acme.register("mine", bundle("two", rank=4), pinned=False),
        lambda: acme.register("mine", bundle("three", rank=5), replace=True),
        lambda: acme.activate("mine", wide),
    ):
        with pytest.raises(AccessRefused, match="only the operator"):
            refused()
        assert world.registry.record("mine") == before
    assert acme.register("mine", bundle("three", rank=4), replace=True)[0].pinned
    assert operator.register("mine", bundle("four", rank=9), replace=True)[0].rank == 9
    assert acme.register("mine", bundle("four", rank=9), replace=True) == (operator.record("mine"), False)
    world.close()
