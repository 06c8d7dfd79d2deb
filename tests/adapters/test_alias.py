"""Aliases: shares of requests, the same user always to the same target, one namespace with adapters."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.alias import choose, sticky
from lorikeet_adapters.errors import (
    AdapterNotFound,
    AliasRefused,
    GenerationNotFound,
    MixRefused,
    NameRefused,
    NameTaken,
)
from lorikeet_adapters.mix import Mix, Term, parse_mix
from lorikeet_adapters.stored import Target
from tests.adapters.bundles import bundle, check_store
from tests.adapters.world import World


def to(name: str, weight: float = 1, generation: str | None = None) -> Target:
    return Target(name, generation, weight)


def test_an_alias_means_what_its_target_means(world: World) -> None:
    one = world.register("a", "one")
    alias, new = world.registry.put_alias("stable", [to("a")])
    assert new
    assert world.registry.put_alias("stable", [to("a")]) == (alias, False)
    assert world.registry.is_name("stable")
    assert world.registry.aliases() == [alias] == [world.registry.alias("stable")]
    assert world.lease(stable=0.5) == Mix.of([Term(one, 0.5)])
    two = world.register("a", "two", replace=True)
    assert world.lease(stable=1.0).adapters == (two,), "without a generation it follows the name"


def test_an_alias_works_inside_a_blend(world: World) -> None:
    one, two = world.register("a", "one"), world.register("b", "two")
    world.registry.put_alias("stable", [to("a")])
    terms = parse_mix("stable:0.25+b:0.5+a:0.25", world.registry.is_name)
    assert world.registry.lease(terms) == Mix.of([Term(one, 0.5), Term(two, 0.5)])


def test_an_alias_holds_on_to_its_generation(world: World) -> None:
    """`world` keeps one generation of a name: the alias alone keeps the other on disk and in reach."""
    one = world.register("a", "one")
    world.registry.put_alias("frozen", [to("a", generation=one)])
    two = world.register("a", "two", replace=True)
    three = world.register("a", "three", replace=True)
    mix = world.lease(frozen=1.0)
    assert mix.adapters == (one,)
    world.registry.release(mix)
    assert world.registry.record("a").generations == (three, one)
    assert world.retired == [two]
    world.registry.put_alias("frozen", [to("a")])
    world.register("a", "four", replace=True)
    assert one not in world.registry.record("a").generations
    check_store(world.store, world.folder)


def test_a_switch_leaves_running_requests_theirs(world: World) -> None:
    one, two = world.register("a", "one"), world.register("b", "two")
    world.registry.put_alias("stable", [to("a")])
    mix = world.lease(stable=1.0)
    world.registry.put_alias("stable", [to("b")])
    assert (mix.adapters, world.lease(stable=1.0).adapters) == ((one,), (two,))


def test_a_split_survives_a_restart_and_its_history_is_on_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.register("a", "one")
    world.register("b", "two")
    before, _ = world.registry.put_alias("canary", [to("a", 95), to("b", 5)])
    after, new = world.registry.put_alias("canary", [to("a", 50), to("b", 50)])
    assert not new
    assert after.created == before.created
    world.close()
    world = World(tmp_path)
    assert world.registry.alias("canary") == after
    world.registry.delete_alias("canary")
    assert not world.registry.is_name("canary")
    found = [(each.event, each.targets) for each in world.registry.history("canary")]
    assert found == [
        ("alias_deleted", after.targets),
        ("alias_set", after.targets),
        ("alias_set", before.targets),
    ]
    world.close()


def test_one_namespace(world: World) -> None:
    world.register("a", "one")
    world.registry.put_alias("stable", [to("a")])
    for change, error in (
        (lambda: world.register("stable", "two"), NameTaken),
        (lambda: world.register("stable", "one", replace=True), NameTaken),
        (lambda: world.registry.put_alias("a", [to("a")]), NameTaken),
        (lambda: world.registry.put_alias("base", [to("a")]), NameTaken),
        (lambda: world.registry.put_alias("a b", [to("a")]), NameRefused),
        (lambda: world.registry.record("stable"), AdapterNotFound),
        (lambda: world.registry.alias("a"), AdapterNotFound),
        (lambda: world.registry.delete("stable", timeout=0), AdapterNotFound),
        (lambda: world.registry.delete_alias("a"), AdapterNotFound),
    ):
        with pytest.raises(error):
            change()
    check_store(world.store, world.folder)


@pytest.mark.parametrize(
    ("targets", "error"),
    [
        ([], AliasRefused),
        ([to("a")] * 17, AliasRefused),
        ([to("a"), to("a")], AliasRefused),
        ([to("a", 0)], AliasRefused),
        ([to("a", -1), to("b", 2)], AliasRefused),
        ([to("a", float("nan"))], AliasRefused),
        ([to("a", float("inf"))], AliasRefused),
        ([to("a", 1e7)], AliasRefused),
        ([to("base")], AliasRefused),
        ([to("other")], AliasRefused),
        ([to("nobody")], AdapterNotFound),
        ([to("a", 1, "0" * 64)], GenerationNotFound),
    ],
    ids=str,
)
def test_targets_that_an_alias_cannot_have(
    world: World, targets: list[Target], error: type[Exception]
) -> None:
    world.register("a", "one")
    world.register("b", "two")
    before, _ = world.registry.put_alias("other", [to("a")])
    with pytest.raises(error):
        world.registry.put_alias("stable", targets)
    with pytest.raises(error):
        world.registry.put_alias("other", targets)
    assert world.registry.aliases() == [before]


def test_an_alias_of_the_bases_own_mix_is_none(world: World) -> None:
    world.register("a", "one")
    world.registry.put_alias("stable", [to("a")])
    with pytest.raises(MixRefused):
        world.lease(stable=1.0, base=1.0)


weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=16).filter(any)


@given(weights, st.floats(0, 1, exclude_max=True))
def test_every_point_has_a_target_that_has_a_share(shares: list[float], point: float) -> None:
    targets = [to(str(number), share) for number, share in enumerate(shares)]
    assert choose(targets, point).weight > 0


def test_shares_are_kept() -> None:
    """20,000 users over 95 to 5: four standard deviations are 0.6 %."""
    targets = [to("a", 95), to("b", 5)]
    for point in (sticky, lambda user: sticky(None)):
        got = Counter(choose(targets, point(f"user {n}")("canary")).name for n in range(20_000))
        assert abs(got["b"] / 20_000 - 0.05) < 0.006, got


def test_a_user_stays_and_a_growing_share_moves_only_its_own() -> None:
    users = [f"user {n}" for n in range(2000)]

    def meant(alias: str, first: float, second: float) -> dict[str, str]:
        return {user: choose([to("a", first), to("b", second)], sticky(user)(alias)).name for user in users}

    before, after = meant("canary", 95, 5), meant("canary", 80, 20)
    assert before == meant("canary", 95, 5) == meant("canary", 9.5, 0.5)
    assert {before[user] for user in users if after[user] == "a"} == {"a"}, "whoever stayed with a was there"
    moved = sum(before[user] != after[user] for user in users)
    assert 0.1 < moved / len(users) < 0.2
    other = meant("another", 95, 5)
    both = sum(before[user] == other[user] == "b" for user in users)
    assert both < 20, "another alias draws other users"


def test_a_lease_asks_by_user(world: World) -> None:
    world.register("a", "one")
    world.registry.register("b", bundle("two"))
    world.registry.put_alias("canary", [to("a"), to("b")])
    term = [Term("canary", 1.0)]
    for user in map(str, range(20)):
        assert len({world.registry.lease(term, user=user) for _ in range(5)}) == 1
    assert len({world.registry.lease(term, user=str(n)) for n in range(40)}) == 2
    assert len({world.registry.lease(term) for _ in range(60)}) == 2
