"""Adapters that come back to the device from memory, and not from the disk."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.lifecycle import AdapterState
from lorikeet_adapters.record import Memory
from lorikeet_adapters.weights import AdapterWeights, ModuleRows
from lorikeet_server.engine.failures import OUT_OF_MEMORY
from lorikeet_server.engine.host_tier import HostTier
from lorikeet_server.engine.slot_cache import SlotCache
from tests.server.engine.test_engine import World, request, rows_for
from tests.tiny import save_model

NAMES = st.sampled_from("abcd")
ORDERS = st.one_of(
    st.tuples(st.just("keep"), NAMES, st.integers(1, 6)),
    st.tuples(st.sampled_from(["find", "forget"]), NAMES, st.none()),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("host") / "base", "llama")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), "fp32")


def fail(*_: object) -> None:
    raise MemoryError


def weights(rows: int) -> AdapterWeights:
    """Eight bytes a row."""
    return AdapterWeights({"m": ModuleRows(torch.zeros(rows, 1), torch.zeros(rows, 1))})


@given(st.lists(ORDERS), st.integers(0, 12))
def test_it_keeps_what_was_asked_for_last_within_its_bytes(
    orders: list[tuple[str, str, int | None]], most: int
) -> None:
    tier, model, hits = HostTier(8 * most), OrderedDict[str, int](), 0
    for what, name, rows in orders:
        if what == "keep":
            assert rows is not None
            tier.keep(name, weights(rows))
            model.pop(name, None)
            if rows <= most:
                model[name] = rows
                while sum(model.values()) > most:
                    model.popitem(last=False)
        elif what == "find":
            found = tier.find(name)
            assert (found is None) == (name not in model)
            hits += found is not None
            if name in model:
                model.move_to_end(name)
        else:
            assert tier.forget(name) == 8 * model.pop(name, 0)
        assert (list(tier), tier.bytes, tier.hits) == (list(model), 8 * sum(model.values()), hits)


def test_an_evicted_adapter_comes_back_without_being_read(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {"a": rows_for(base, 6), "b": rows_for(base, 6, -0.3)})
    for turn, name in enumerate("abab"):
        world.run(request(f"{name}{turn}", name))
    assert world.fetched == ["a", "b"], "eight rows hold one of them at a time"
    assert world.tokens("a0") == world.tokens("a2") != world.tokens("b1") == world.tokens("b3")
    stats = world.engine.read_stats()
    assert (stats.loads, stats.host_hits, stats.evictions) == (2, 2, 3)
    assert stats.host_adapter_bytes == sum(each.bytes for each in world.adapters.values())
    assert stats.adapters == {"a": AdapterState.HOST, "b": AdapterState.DEVICE}
    world.engine.close()


def test_without_bytes_for_it_every_return_is_a_read(base: BaseModel, folder: Path) -> None:
    adapters = {"a": rows_for(base, 6), "b": rows_for(base, 6, -0.3)}
    world = World(base, folder, adapters, host_adapter_bytes=0)
    for turn, name in enumerate("aba"):
        world.run(request(f"{name}{turn}", name))
    assert world.fetched == ["a", "b", "a"]
    assert world.engine.read_stats().adapters == {"a": AdapterState.DEVICE}
    world.engine.close()


def test_memory_that_ran_out_is_not_spent_on_what_may_come_back(
    base: BaseModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(base, folder, {"a": rows_for(base, 6), "b": rows_for(base, 6, -0.3)})
    world.run(request("one", "a"))
    with monkeypatch.context() as patched:
        patched.setattr(SlotCache, "join", fail)
        assert world.run(request("two", "b"))["two"].failure == OUT_OF_MEMORY
    assert world.engine.read_stats().host_adapter_bytes == 0
    world.run(request("three", "a"))
    assert world.fetched == ["a", "b", "a"]
    world.engine.close()


def test_a_retired_adapter_is_not_kept(base: BaseModel, folder: Path) -> None:
    world = World(base, folder, {"a": rows_for(base, 6), "b": rows_for(base, 6, -0.3)})
    world.run(request("one", "a"))
    world.run(request("two", "b"))
    answer = world.engine.retire("a")  # evicted before, so it has no rows
    world.engine.step()
    assert answer.result(0) == Memory(host=world.adapters["a"].bytes)
    world.run(request("three", "a"))
    assert world.fetched == ["a", "b", "a"]
    world.engine.close()
