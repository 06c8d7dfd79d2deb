"""What a name means now, and who still uses what it meant before."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.check import Checker
from lorikeet_adapters.errors import (
    AdapterConflict,
    AdapterNotFound,
    AdapterRefused,
    MixRefused,
    NameRefused,
    NameTaken,
)
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.spec import AdapterSpec, parse_spec
from lorikeet_adapters.store import Store
from lorikeet_adapters.weights import load_weights
from tests.adapters.bundles import bundle, check_store
from tests.adapters.world import PATIENCE, World
from tests.tiny import save_adapter, save_model


def test_registering_makes_a_record(world: World) -> None:
    record, changed = world.registry.register("a", bundle("one", rank=5), metadata={"by": ["me"]})
    assert changed
    assert (record.name, record.rank, record.ranks, dict(record.source)) == (
        "a",
        5,
        {"q_proj": 5},
        {"type": "local", "path": "folder"},
    )
    assert (record.leases, record.metadata, record.warnings) == (0, {"by": ["me"]}, ())
    assert record.bytes == len("one")
    assert world.registry.record("a") == record
    assert world.registry.records() == [record]
    assert world.registry.is_name("a")
    assert world.registry.is_name("base")
    assert not world.registry.is_name("b")
    check_store(world.store, world.folder)


def test_records_are_there_after_a_restart(world: World) -> None:
    world.register("b", "two")
    world.register("a", "one")
    records = world.registry.records()
    assert [record.name for record in records] == ["a", "b"]
    assert Registry(world.store, "base", world.checker).records() == records


def test_the_same_bytes_again_change_nothing(world: World) -> None:
    first, _ = world.registry.register("a", bundle("one"))
    again, changed = world.registry.register("a", bundle("one"), replace=True)
    assert not changed
    assert again == first
    assert world.checker.read == ["one"], "checked once"
    check_store(world.store, world.folder)


def test_other_bytes_are_a_conflict_that_leaves_nothing_behind(world: World) -> None:
    generation = world.register("a", "one")
    before = world.blobs()
    with pytest.raises(AdapterConflict, match="`a`"):
        world.register("a", "two")
    assert world.registry.record("a").generation == generation
    assert world.blobs() == before
    assert world.retired == []


def test_a_conflict_with_bytes_another_name_uses_keeps_them(world: World) -> None:
    world.register("a", "one")
    world.register("b", "two")
    with pytest.raises(AdapterConflict):
        world.register("a", "two")
    check_store(world.store, world.folder)


def test_replacing_retires_what_nobody_uses(world: World) -> None:
    old = world.register("a", "one")
    new = world.register("a", "two", replace=True)
    assert new != old
    assert world.retired == [old]
    assert world.registry.record("a").generation == new
    check_store(world.store, world.folder)


def test_replacing_leaves_running_requests_their_generation(world: World) -> None:
    old = world.register("a", "one")
    mix = world.lease(a=1.0)
    world.register("a", "two", replace=True)
    assert world.retired == []
    assert world.registry.locate(old).weights.read_text() == "one"
    assert mix.adapters == (old,)
    world.registry.release(mix)
    world.registry.close()
    assert world.retired == [old]
    check_store(world.store, world.folder)


def test_going_back_while_the_old_generation_still_runs(world: World) -> None:
    """The bytes are in use under no name, and get one again: nothing is retired by the last release."""
    old = world.register("a", "one")
    mix = world.lease(a=1.0)
    new = world.register("a", "two", replace=True)
    assert world.register("a", "one", replace=True) == old
    world.registry.release(mix)
    world.registry.close()
    assert world.retired == [new]
    assert world.registry.locate(old).weights.read_text() == "one"
    check_store(world.store, world.folder)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("base", NameTaken),
        ("../a", NameRefused),
        ("", NameRefused),
        ("a+b", NameRefused),
        ("history/a", NameRefused),
    ],
)
def test_a_name_that_cannot_be_taken(world: World, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        world.register(name, "one")
    assert world.blobs() == set()


def test_a_refusal_leaves_nothing_behind(world: World) -> None:
    def refuse(spec: AdapterSpec, weights: Path) -> None:
        assert weights.read_text() == "one", "it is the copy that is checked"
        raise AdapterRefused([])

    registry = Registry(world.store, "base", refuse)  # type: ignore[arg-type]
    with pytest.raises(AdapterRefused):
        registry.register("a", bundle("one"))
    assert world.blobs() == set()
    assert registry.records() == []


def test_a_refusal_keeps_a_blob_another_adapter_shares(world: World) -> None:
    """Two adapters of one config share its blob."""
    world.register("a", "one")

    def refuse(spec: AdapterSpec, weights: Path) -> None:
        raise AdapterRefused([])

    registry = Registry(world.store, "base", refuse)  # type: ignore[arg-type]
    with pytest.raises(AdapterRefused):
        registry.register("b", bundle("two"))
    check_store(world.store, world.folder)


def test_an_unknown_name(world: World) -> None:
    for call in (
        lambda: world.registry.record("nobody"),
        lambda: world.registry.delete("nobody", timeout=0),
        lambda: world.lease(nobody=1.0),
        lambda: world.registry.locate("0" * 64),
    ):
        with pytest.raises(AdapterNotFound):
            call()


def test_a_lease_is_counted_until_its_last_release(world: World) -> None:
    generation = world.register("a", "one")
    mix = world.registry.lease([Term("a", 0.5)], count=3)
    assert mix == Mix((Term(generation, 0.5),))
    assert world.registry.record("a").leases == 3
    for left in (2, 1, 0):
        world.registry.release(mix)
        assert world.registry.record("a").leases == left
    world.registry.close()
    assert world.retired == [], "named, so not retired"


def test_a_mix_that_is_refused_leases_nothing(world: World) -> None:
    world.register("a", "one")
    with pytest.raises(AdapterNotFound):
        world.lease(a=1.0, nobody=1.0)
    with pytest.raises(MixRefused):
        world.lease(a=1000.0)
    assert world.registry.record("a").leases == 0


def test_the_base_is_the_empty_mix_and_no_term_of_one(world: World) -> None:
    world.register("a", "one")
    assert world.lease(base=1.0) == BASE_MIX
    world.registry.release(BASE_MIX)
    for weights in ({"base": 0.5}, {"base": 1.0, "a": 1.0}):
        with pytest.raises(MixRefused, match="`base`"):
            world.lease(**weights)


def test_two_names_of_the_same_bytes_are_one_adapter(world: World) -> None:
    one, other = world.register("a", "one"), world.register("b", "one")
    assert one == other
    mix = world.lease(a=0.25, b=0.5)
    assert mix == Mix((Term(one, 0.75),))
    assert world.registry.record("a").leases == world.registry.record("b").leases == 1
    world.registry.release(mix)
    assert world.checker.read == ["one"]


def test_threads_that_lease_replace_and_delete(world: World, pool: ThreadPoolExecutor) -> None:
    """In the end nothing is leased, each generation was retired as often as it was given up, nothing is left."""
    turns = 40
    start = threading.Barrier(4)

    def use() -> None:
        start.wait(PATIENCE)
        for _ in range(turns * 3):
            try:
                mix = world.lease(a=0.5, b=0.5)
            except AdapterNotFound:
                continue
            for generation in mix.adapters:
                assert world.registry.locate(generation).weights.read_text().startswith("words")
            world.registry.release(mix)

    def change(name: str) -> None:
        start.wait(PATIENCE)
        for turn in range(turns):
            world.register(name, f"words {turn % 3}", replace=True)
            if turn % 4 == 0:
                world.registry.delete(name, timeout=PATIENCE)

    running = [pool.submit(use), pool.submit(use), pool.submit(change, "a"), pool.submit(change, "b")]
    for each in running:
        each.result(PATIENCE)
    for record in world.registry.records():
        assert record.leases == 0
        world.registry.delete(record.name, timeout=0)
    world.registry.close()
    check_store(world.store, world.folder)
    assert world.blobs() == set()
    assert world.store.catalogue.generations() == {}


def test_real_files_against_a_real_base(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", "llama")
    base = load_base(str(folder), "fp32")
    fits = save_adapter(folder, tmp_path / "fits", rank=3, seed=1)
    other = save_model(tmp_path / "other", "gpt2")
    foreign = save_adapter(other, tmp_path / "foreign", rank=3, seed=1)
    with Store(tmp_path / "data") as store:
        registry = Registry(store, "served", Checker(base.outline, "served", str(folder)))
        with open_folder(fits) as files:
            record, _ = registry.register("fits", files)
        with open_folder(foreign) as files, pytest.raises(AdapterRefused) as caught:
            registry.register("foreign", files)
        assert {finding.code for finding in caught.value.findings} == {"module_not_in_base"}
        assert record.ranks == dict.fromkeys(base.linears.keys() - {"lm_head"}, 3)
        assert record.warnings == (), "PEFT wrote the base's folder, whose name is the served one's"
        found = registry.locate(record.generation)
        stored = load_weights(found.weights, found.spec, base.outline, torch.float32)
        spec = parse_spec((fits / "adapter_config.json").read_bytes())
        direct = load_weights(fits / "adapter_model.safetensors", spec, base.outline, torch.float32)
        for module, rows in direct.modules.items():
            assert torch.equal(stored.modules[module].a, rows.a)
            assert torch.equal(stored.modules[module].b, rows.b)
        check_store(store, tmp_path / "data")
        registry.close()


def test_an_adapter_of_another_base_is_registered_with_a_warning(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", "llama")
    adapter = save_adapter(folder, tmp_path / "adapter", rank=2, seed=1)
    base = load_base(str(folder), "fp32")
    with Store(tmp_path / "data") as store, open_folder(adapter) as files:
        registry = Registry(store, "served", Checker(base.outline, "served", "owner/another"))
        record, _ = registry.register("adapter", files)
    (warning,) = record.warnings
    assert "'base'" in warning
    assert str(tmp_path) not in warning


def test_new_metadata_for_the_same_bytes_is_kept(world: World) -> None:
    first, _ = world.registry.register("a", bundle("one"), metadata={"by": "me"})
    record, changed = world.registry.register("a", bundle("one"), metadata={"by": "you"})
    assert changed
    assert (record.generation, record.metadata) == (first.generation, {"by": "you"})
    assert Registry(world.store, "base", world.checker).record("a").metadata == {"by": "you"}
    assert world.retired == []
