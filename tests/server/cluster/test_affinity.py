"""Where a request goes: to its adapter's own replica while that has a slot, and evenly over them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_server.cluster.affinity import Placed, favourite, order, placed, ranked

NAMES = st.text("abcdef-0123456789", min_size=1, max_size=8)
REPLICAS = st.lists(NAMES, min_size=1, max_size=8, unique=True)


@given(NAMES, REPLICAS)
def test_a_replica_that_leaves_moves_only_what_was_its_own(adapter: str, replicas: list[str]) -> None:
    before = ranked(adapter, replicas)
    for gone in replicas:
        assert ranked(adapter, [each for each in replicas if each != gone]) == [
            each for each in before if each != gone
        ]
    assert before == ranked(adapter, replicas[::-1])


def test_adapters_are_spread_evenly() -> None:
    homes = Counter(ranked(f"adapter-{number}", ["a", "b", "c", "d"])[0] for number in range(4000))
    assert all(900 < each < 1100 for each in homes.values()), homes


@given(NAMES, st.dictionaries(NAMES, st.integers(0, 20), min_size=1, max_size=8), st.integers(1, 16))
def test_every_replica_is_named_once_and_a_free_one_comes_before_a_full_one(
    adapter: str, load: dict[str, int], slots: int
) -> None:
    found = order(adapter, load, slots)
    assert sorted(found) == sorted(load)
    full = [load[each] >= slots for each in found]
    assert full == sorted(full)
    crowded = [load[each] for each in found if load[each] >= slots]
    assert crowded == sorted(crowded)
    free = [each for each in ranked(adapter, list(load)) if load[each] < slots]
    assert found[: len(free)] == free


@given(st.dictionaries(NAMES, st.integers(0, 20), min_size=1, max_size=8))
def test_the_base_alone_goes_to_the_least_loaded(load: dict[str, int]) -> None:
    found = order("", load, 4)
    assert [load[each] for each in found] == sorted(load.values())


def test_how_a_request_was_placed() -> None:
    first, second = ranked("formal", ["a", "b"])
    assert placed("formal", first, ["a", "b"]) is Placed.HOME
    assert placed("formal", second, ["a", "b"]) is Placed.SPILLED
    assert placed("", first, ["a", "b"]) is Placed.ANY


@pytest.mark.parametrize(
    ("body", "adapter"),
    [
        ({"model": "formal"}, "formal"),
        ({"model": "formal:0.3+friendly:-0.7"}, "friendly"),
        ({"model": "formal:0.5+friendly:0.5"}, "formal"),
        ({"model": "demo", "adapters": [{"name": "a", "weight": 0.2}, {"name": "b"}]}, "b"),
        ({"merged_adapters": {"ids": ["a", "b"], "weights": [0.9, 0.1]}}, "a"),
        ({"merged_adapters": {"ids": ["b", "a"]}}, "a"),
        ({"lora": [{"id": "a", "scale": 1}, {"id": "b", "scale": -2}]}, "b"),
        ({"inputs": "x", "parameters": {"adapter_id": "formal"}}, "formal"),
        ({"inputs": "x", "parameters": {"adapters": [{"name": "a", "weight": 1}]}}, "a"),
        ({"model": "a strange:name+"}, "a strange:name+"),
        ({}, ""),
        ([], ""),
        ({"model": None}, ""),
        ({"adapters": 7}, ""),
        ({"adapters": [{"name": "a", "weight": "heavy"}]}, ""),
        ({"merged_adapters": {"ids": ["a"], "weights": [1, 2]}}, ""),
    ],
)
def test_the_heaviest_adapter_of_every_form(body: object, adapter: str) -> None:
    assert favourite(json.dumps(body).encode()) == adapter


@given(
    st.binary(max_size=64)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["model", "adapters", "lora", "parameters", "name", "id", "weight"]), inner
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_body_is_it_has_a_place(body: bytes) -> None:
    assert isinstance(favourite(body), str)


def test_a_body_nested_without_end_has_a_place() -> None:
    assert favourite(b'{"model":' * 100_000) == ""
