"""Bytes that change on the disk: found, refused by name, and mended by bringing them again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lorikeet_adapters import verifier
from lorikeet_adapters.errors import AdapterIncompatible
from lorikeet_adapters.mix import Term
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import StoredGeneration, Target
from tests.adapters.bundles import WordChecker, bundle, check_store
from tests.adapters.world import PATIENCE, World

pytestmark = pytest.mark.safety("security 8")


def blob(store: Store, words: str) -> Path:
    return store.blobs.path(hashlib.sha256(words.encode()).hexdigest())


def spoil(path: Path) -> None:
    """Another byte, and nothing else that a glance would see."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    path.chmod(0o444)


def codes(registry: Registry, name: str) -> list[str]:
    return [each["code"] for each in registry.record(name).findings]


@pytest.mark.parametrize("name", ["a", "another"])
def test_the_right_bytes_take_the_place_of_damaged_ones(world: World, name: str) -> None:
    """Also those that nobody has noticed yet, under whatever name they come."""
    world.register("a", "one")
    spoil(blob(world.store, "one"))
    world.register(name, "one")
    assert blob(world.store, "one").read_text() == "one"
    check_store(world.store, world.folder)


@pytest.mark.parametrize(
    "harm", [spoil, Path.unlink, lambda path: path.chmod(0o644) or path.write_bytes(b"")]
)
def test_what_is_damaged_is_found_and_refused_by_name_until_it_comes_again(
    world: World, harm: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    generation = world.registry.register("a", bundle("one"), pinned=True)[0].generation
    world.register("b", "two")
    world.registry.put_alias("prod", [Target("a", generation, 1.0)])
    world.registry.verifier.verify()
    assert codes(world.registry, "a") == []
    harm(blob(world.store, "one"))
    world.registry.verifier.verify()
    world.registry.verifier.verify()
    assert codes(world.registry, "a") == ["damaged"]
    assert codes(world.registry, "b") == []
    assert caplog.text.count("are damaged") == 1
    for name in ("a", "prod"):
        with pytest.raises(AdapterIncompatible, match=f"`{name}` is not served: .*damaged"):
            world.lease(**{name: 1.0})
    with pytest.raises(AdapterIncompatible):
        world.registry.locate(generation)
    assert world.lease(b=1.0).adapters
    assert world.retired == [generation], "what was loaded of it may be wrong, too"
    assert world.pins == [(generation, True), (generation, False)]
    world.register("a", "one")
    assert codes(world.registry, "a") == []
    assert world.lease(a=1.0).adapters == (generation,)
    assert world.pins[2:] == [(generation, True)]
    check_store(world.store, world.folder)


def test_who_runs_with_it_goes_on(world: World) -> None:
    generation = world.register("a", "one")
    running = world.lease(a=1.0)
    spoil(blob(world.store, "one"))
    world.registry.verifier.verify()
    assert world.retired == []
    world.registry.release(running)
    world.registry.close()
    assert world.retired == [generation]


def test_a_damaged_config_counts_and_a_restored_one_too(world: World) -> None:
    generation = world.register("a", "one")
    config = world.registry.locate(generation).config
    content = config.read_bytes()
    spoil(config)
    world.registry.verifier.verify()
    assert codes(world.registry, "a") == ["damaged"]
    config.chmod(0o644)
    config.write_bytes(content)
    config.chmod(0o444)
    world.registry.verifier.verify()
    assert codes(world.registry, "a") == []
    assert world.lease(a=1.0).adapters == (generation,)


def test_what_was_found_stays_found_on_any_base(tmp_path: Path) -> None:
    """Damaged weights can look like weights: no base's own check clears them."""
    with Store(tmp_path) as store:
        registry = Registry(store, "base", WordChecker(), fingerprint="x" * 64)
        registry.register("a", bundle("one"))
        spoil(blob(store, "one"))
        registry.verifier.verify()
        registry.close()
    for base in ("x", "y"):
        with Store(tmp_path) as store:
            registry = Registry(store, "base", checker := WordChecker(), fingerprint=base * 64)
            assert codes(registry, "a") == ["damaged"]
            assert set(checker.read) <= {"two"}
            registry.register("other", bundle("two"))
            registry.close()
    with Store(tmp_path) as store:
        registry = Registry(store, "base", checker := WordChecker(), fingerprint="y" * 64)
        registry.register("b", bundle("one"))
        assert codes(registry, "a") == codes(registry, "b") == []
        assert checker.read == ["one"], "and judged for this base"
        registry.close()


def test_what_is_deleted_or_brought_again_meanwhile_is_not_marked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at a file and the second, which is the one that counts."""
    one = world.register("a", "one")
    world.register("b", "two")
    spoil(blob(world.store, "one"))
    spoil(blob(world.store, "two"))
    looking = verifier.Verifier._is_whole
    looked: set[str] = set()

    def meddling(self: verifier.Verifier, stored: StoredGeneration) -> bool:
        found = looking(self, stored)
        if stored.generation not in looked:
            looked.add(stored.generation)
            _ = world.register("a", "one") if stored.generation == one else world.registry.delete("b", 0)
        return found

    monkeypatch.setattr(verifier.Verifier, "_is_whole", meddling)
    world.registry.verifier.verify()
    assert [codes(world.registry, each.name) for each in world.registry.records()] == [[]]
    check_store(world.store, world.folder)


def test_its_thread_ends_in_the_middle_of_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At this rate the file would take a year."""
    world.register("a", "one")
    monkeypatch.setattr(verifier, "BYTES_PER_SECOND", 1e-7)
    reading, asked = threading.Event(), list[str]()
    path = world.store.blobs.path

    def asking(digest: str) -> Path:
        asked.append(digest)
        reading.set()
        return path(digest)

    monkeypatch.setattr(world.store.blobs, "path", asking)
    world.registry.verifier.start()
    assert reading.wait(PATIENCE)
    world.registry.close()
    assert not [each for each in threading.enumerate() if each.name == "registry-verifier"]
    assert len(asked) == 1, "it was at the first of the two files until the end"
    assert world.registry.lease([Term("a", 1.0)]).adapters, "and has found nothing"
