"""What a replica makes of an owner that is another than before, of its own folder, and of another base."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorikeet_adapters import shared
from lorikeet_adapters.batch import Position
from lorikeet_adapters.errors import AdapterIncompatible, AdapterRefused, RegistryAway, StoreError
from lorikeet_adapters.finding import Finding
from lorikeet_adapters.mix import Term
from lorikeet_adapters.owner import LocalOwner
from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import DAMAGED, Target
from tests.adapters.bundles import WordChecker, bundle, check_store
from tests.adapters.replicas import Line, Replica, contents
from tests.adapters.world import World


@pytest.fixture(autouse=True)
def nobody_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "REACHED_S", 0.0)
    monkeypatch.setattr(shared, "AGAIN_S", 0.01)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "owner")
    yield made
    made.close()


@pytest.fixture
def replica(tmp_path: Path, line: Line) -> Iterator[Replica]:
    made = Replica(tmp_path / "a", line)
    yield made
    made.close()


def test_another_owner_has_the_last_word(
    tmp_path: Path, line: Line, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    one = replica.register("a", "one")
    replica.register("b", "two")
    replica.registry.put_alias("x", [Target("a", None, 1)])
    mix = replica.lease(b=1.0)
    line.close()
    line.folder = tmp_path / "another"
    line.open()
    other = Replica(tmp_path / "b", line)
    assert other.register("a", "one") == one
    replica.step()
    assert contents(replica.store) == contents(line.store)
    assert "1 adapters are no more: b" in caplog.text
    assert replica.registry.aliases() == []
    assert replica.registry.locate(mix.adapters[0]).weights.read_text() == "two", "a request still runs"
    replica.registry.release(mix)
    other.close()


@pytest.mark.parametrize("more", [0, 1, 3], ids=["shorter", "as long", "longer"])
def test_a_restored_owner_has_the_last_word(tmp_path: Path, line: Line, replica: Replica, more: int) -> None:
    """Its identity is the same, and the ids of its history may be: the marks tell."""
    replica.register("a", "one")
    line.store.close()
    shutil.copytree(line.folder, tmp_path / "backup")
    line.open()
    replica.register("a", "two", replace=True)
    replica.register("b", "three")
    line.close()
    line.folder = tmp_path / "backup"
    line.open()
    other = Replica(tmp_path / "b", line)
    other.step()
    for turn in range(1 + more):
        other.register("c", f"words {turn}", replace=True)
    assert replica.register("d", "four"), "what was decided on by another history is decided again"
    other.step()
    assert other.meanings() == replica.meanings()
    assert set(other.meanings()) == {"a", "c", "d"}
    assert contents(replica.store) == contents(line.store) == contents(other.store)
    other.close()


def test_a_batch_can_be_applied_twice(line: Line, replica: Replica) -> None:
    replica.register("a", "one")
    replica.registry.put_alias("x", [Target("a", None, 1)])
    replica.register("gone", "two")
    replica.registry.delete("gone", timeout=0)
    before = contents(replica.store)
    batches = [line.owner.since(Position(), 0, "test")]
    first = replica.store.catalogue.history("a", 1)[0]
    batches.append(line.owner.since(Position(batches[0].position.owner, first.id, first.mark), 0, "test"))
    assert [each.since for each in batches] == [0, 1]
    for batch in (*batches, *batches):
        replica.store.catalogue.follow(batch, batch.generations)
        assert contents(replica.store) == before


def test_a_name_can_become_an_alias_between_two_steps(tmp_path: Path, line: Line, replica: Replica) -> None:
    late = Replica(tmp_path / "late", line)
    replica.register("a", "one")
    replica.register("b", "two")
    late.step()
    replica.registry.delete("b", timeout=0)
    replica.registry.put_alias("b", [Target("a", None, 1)])
    late.step()
    assert set(late.meanings()) == {"a"}
    assert [each.name for each in late.registry.aliases()] == ["b"]
    replica.registry.delete_alias("b")
    replica.register("b", "three")
    late.step()
    assert late.meanings() == replica.meanings()
    assert late.registry.aliases() == []
    late.close()


def test_a_replicas_folder_is_no_registry_of_its_own(tmp_path: Path, line: Line) -> None:
    replica = Replica(tmp_path / "a", line)
    replica.register("a", "one")
    replica.close()
    with Store(tmp_path / "a") as store:
        with pytest.raises(StoreError, match="replica's"):
            Registry(store, "base", WordChecker())
        with pytest.raises(StoreError, match="replica's"):
            LocalOwner(store)


def test_also_an_empty_one_is_not(tmp_path: Path, line: Line) -> None:
    replica = Replica(tmp_path / "a", line)
    replica.step()
    replica.close()
    with Store(tmp_path / "a") as store, pytest.raises(StoreError, match="replica's"):
        Registry(store, "base", WordChecker())


def test_a_folder_with_adapters_of_its_own_does_not_follow(tmp_path: Path, line: Line) -> None:
    world = World(tmp_path / "a")
    world.register("a", "one")
    world.close()
    with Store(tmp_path / "a") as store:
        with pytest.raises(StoreError, match="would lose"):
            Registry(store, "base", WordChecker(), owner=line.as_owner())
        check_store(store, tmp_path / "a")
        assert LocalOwner(store).append is not None, "it can be an owner's"


def test_a_replica_that_reaches_nobody_is_not_ready(line: Line, replica: Replica) -> None:
    line.is_cut = True
    with pytest.raises(RegistryAway, match="cut"):
        replica.follower.catch_up(0.05)
    assert replica.follower.lag > 1e9
    line.is_cut = False
    replica.follower.catch_up(5)
    assert replica.follower.lag < 5


class Narrow(WordChecker):
    """A base that one of the texts does not fit."""

    def __call__(self, spec: AdapterSpec, weights: Path) -> AdapterFacts:
        facts = super().__call__(spec, weights)
        if self.read[-1] == "wide":
            raise AdapterRefused([Finding("shape_mismatch", "it is too wide", "train it again")])
        return facts


def test_a_replica_with_another_base_judges_for_itself(tmp_path: Path, line: Line) -> None:
    with Store(tmp_path / "a") as here, Store(tmp_path / "b") as there:
        wide = Registry(here, "base", WordChecker(), fingerprint="x" * 64, owner=line.as_owner())
        narrow = Registry(there, "base", Narrow(), fingerprint="y" * 64, owner=line.as_owner())
        wide.register("a", bundle("wide"))
        wide.register("b", bundle("two"))
        assert narrow.follower is not None
        narrow.follower.catch_up(5)
        assert wide.lease([Term("a", 1.0)]).adapters == (wide.record("a").generation,)
        with pytest.raises(AdapterIncompatible, match="too wide"):
            narrow.lease([Term("a", 1.0)])
        assert narrow.lease([Term("b", 1.0)]).adapters
        narrow.update("a", metadata={"by": "me"})
        assert wide.follower is not None
        wide.follower.catch_up(5)
        assert wide.lease([Term("a", 1.0)]).adapters, "what does not fit there fits here"
        assert wide.record("a").metadata == {"by": "me"}
        wide.close()
        narrow.close()


def test_damage_is_of_one_disk(tmp_path: Path, line: Line, replica: Replica) -> None:
    generation = replica.register("a", "one")
    weights = replica.registry.locate(generation).weights
    weights.chmod(0o644)
    weights.write_text("0ne")
    verifier = replica.registry.verifier
    verifier.verify()
    assert replica.registry.record("a").findings[0]["code"] == DAMAGED
    replica.registry.update("a", metadata={"by": "me"})
    other = Replica(tmp_path / "b", line)
    other.step()
    assert other.lease(a=1.0).adapters == (generation,)
    other.registry.update("a", metadata={"by": "you"})
    replica.step()
    assert replica.registry.record("a").findings, "and stays one's own until it is mended"
    replica.register("a", "one")
    assert replica.lease(a=1.0).adapters == (generation,)
    other.close()
