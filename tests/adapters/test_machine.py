"""The registry beside a plain model of it: any order of changes, leases, releases and restarts."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lorikeet_adapters.errors import (
    AdapterChanged,
    AdapterConflict,
    AdapterInUse,
    AdapterNotFound,
    AliasRefused,
    GenerationNotFound,
    NameTaken,
)
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.stored import Target
from tests.adapters.bundles import bundle
from tests.adapters.world import World

KEEP = 2
CONFIG = b'{"lora_alpha":2,"peft_type":"LORA","r":2}'
NAMES = st.sampled_from(["a", "b", "owner/c"])
ALIASES = st.sampled_from(["x", "frozen", "a"])  # `a` is sometimes an adapter
WORDS = st.sampled_from(["one", "two", "three", "four"])


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def generation_of(words: str) -> str:
    """As the design says it: SHA-256 over the digests of canonical config and weights."""
    return digest((digest(CONFIG) + digest(words.encode())).encode())


@dataclass
class Model:
    """Words stand for generations."""

    names: dict[str, list[str]] = field(default_factory=dict)  # the newest first
    pins: set[str] = field(default_factory=set)
    aliases: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    leases: list[tuple[Mix, str]] = field(default_factory=list)

    def reachable(self) -> set[str]:
        frozen = {words for targets in self.aliases.values() for _, words in targets if words}
        return {each[0] for each in self.names.values()} | frozen

    def leased(self) -> Counter[str]:
        return Counter(words for _, words in self.leases)

    def kept(self) -> set[str]:
        return {words for each in self.names.values() for words in each}

    def point(self, name: str, words: str) -> None:
        """What only an alias held is given up with the name's next change."""
        order = [words, *(each for each in self.names.get(name, []) if each != words)]
        frozen = {each for targets in self.aliases.values() for target, each in targets if target == name}
        self.names[name] = [each for at, each in enumerate(order) if at < KEEP or each in frozen]

    def targeted(self, name: str) -> bool:
        return any(name == target for targets in self.aliases.values() for target, _ in targets)

    def meanings(self, name: str) -> set[str]:
        if name in self.aliases:
            return {words or self.names[target][0] for target, words in self.aliases[name]}
        return {self.names[name][0]} if name in self.names else set()


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = TemporaryDirectory()
        self.world = World(Path(self.scratch.name), keep=KEEP)
        self.model = Model()
        self.near: set[str] = set()  # reachable or leased when the engine was told last

    @rule(name=NAMES, words=WORDS, may=st.booleans(), expected=st.none() | WORDS | st.just("*"))
    def register(self, name: str, words: str, may: bool, expected: str | None) -> None:
        model, known = self.model, self.model.names.get(name)
        wanted = expected if expected in (None, "*") else generation_of(expected)
        matches = expected is None or (known is not None and expected in ("*", known[0]))
        if name in model.aliases:
            error: type[Exception] | None = NameTaken
        elif known is not None and known[0] == words:
            error = None
        elif not matches:
            error = AdapterChanged
        else:
            error = AdapterConflict if known and not may and expected is None else None
        if error:
            with pytest.raises(error):
                self.world.registry.register(name, bundle(words), replace=may, expected=wanted)
            return
        record, changed = self.world.registry.register(name, bundle(words), replace=may, expected=wanted)
        assert record.generation == generation_of(words)
        assert changed is (known is None or known[0] != words)
        if changed:
            model.point(name, words)

    @rule(name=NAMES, words=WORDS)
    def activate(self, name: str, words: str) -> None:
        if words not in self.model.names.get(name, []):
            with pytest.raises(GenerationNotFound if name in self.model.names else AdapterNotFound):
                self.world.registry.activate(name, generation_of(words))
            return
        _, changed = self.world.registry.activate(name, generation_of(words))
        assert changed is (self.model.names[name][0] != words)
        if changed:
            self.model.point(name, words)

    @rule(name=NAMES, pinned=st.booleans())
    def pin(self, name: str, pinned: bool) -> None:
        if name not in self.model.names:
            with pytest.raises(AdapterNotFound):
                self.world.registry.update(name, pinned=pinned)
            return
        assert self.world.registry.update(name, pinned=pinned).pinned is pinned
        if pinned is not (name in self.model.pins):
            self.model.pins ^= {name}
            self.model.point(name, self.model.names[name][0])

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        model = self.model
        own = set(model.names.pop(name, []))
        busy = any(model.leased()[words] for words in own - model.reachable())
        error = AdapterInUse if own and (model.targeted(name) or busy) else None if own else AdapterNotFound
        if error:
            with pytest.raises(error):
                self.world.registry.delete(name, timeout=0)
            if own:
                order = self.world.registry.record(name).generations
                model.names[name] = sorted(own, key=lambda words: order.index(generation_of(words)))
            return
        before = self.sizes()
        freed = self.world.registry.delete(name, timeout=0)
        after = self.sizes()
        assert freed.disk == sum(before.values()) - sum(after.values())
        gone = (own & self.near) - model.reachable() - set(model.leased())
        assert freed.memory is not None
        assert freed.memory.device == 100 * len(gone)
        model.pins.discard(name)

    @rule(alias=ALIASES, shares=st.lists(st.tuples(NAMES, st.none() | WORDS), max_size=3))
    def put_alias(self, alias: str, shares: list[tuple[str, str | None]]) -> None:
        model = self.model
        made = [Target(name, words and generation_of(words), 1.0) for name, words in shares]
        errors: set[type[Exception]] = set()
        if not shares or len(set(shares)) < len(shares):
            errors.add(AliasRefused)
        if alias in model.names:
            errors.add(NameTaken)
        for name, words in shares:
            if name in model.aliases:
                errors.add(AliasRefused)
            elif name not in model.names:
                errors.add(AdapterNotFound)
            elif words and words not in model.names[name]:
                errors.add(GenerationNotFound)
        if errors:
            with pytest.raises(tuple(errors)):
                self.world.registry.put_alias(alias, made)
            return
        _, new = self.world.registry.put_alias(alias, made)
        assert new is (alias not in model.aliases)
        model.aliases[alias] = shares

    @precondition(lambda self: self.model.names)
    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        """An alias of a generation that is there, which random words seldom are."""
        name = data.draw(st.sampled_from(sorted(self.model.names)))
        words = data.draw(st.sampled_from(self.model.names[name]))
        self.world.registry.put_alias("frozen", [Target(name, generation_of(words), 1.0)])
        self.model.aliases["frozen"] = [(name, words)]

    @rule(alias=ALIASES)
    def delete_alias(self, alias: str) -> None:
        if alias not in self.model.aliases:
            with pytest.raises(AdapterNotFound):
                self.world.registry.delete_alias(alias)
            return
        self.world.registry.delete_alias(alias)
        del self.model.aliases[alias]

    @rule(name=NAMES | ALIASES, user=st.none() | st.sampled_from(["u", "v"]))
    def lease(self, name: str, user: str | None) -> None:
        possible = self.model.meanings(name)
        if not possible:
            with pytest.raises(AdapterNotFound):
                self.world.registry.lease([Term(name, 1.0)], user=user)
            return
        mix = self.world.registry.lease([Term(name, 1.0)], user=user)
        (words,) = [each for each in possible if mix == Mix((Term(generation_of(each), 1.0),))]
        assert self.world.registry.locate(mix.adapters[0]).weights.read_text() == words
        self.model.leases.append((mix, words))

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        mix, _ = self.model.leases.pop(data.draw(st.integers(0, len(self.model.leases) - 1)))
        self.world.registry.release(mix)
        self.world.registry._usage._janitor.submit(lambda: None).result()  # it has tidied up

    @rule()
    def restart(self) -> None:
        """Requests end with the process, without a word."""
        self.world.close()
        self.model.leases = []
        self.world = World(self.world.folder, keep=KEEP)
        self.near = self.model.reachable()

    @invariant()
    def is_what_the_model_says(self) -> None:
        registry, model = self.world.registry, self.model
        records = {record.name: record for record in registry.records()}
        assert records.keys() == model.names.keys()
        leased = model.leased()
        for name, words in model.names.items():
            assert records[name].generations == tuple(map(generation_of, words)), name
            assert records[name].leases == leased[words[0]]
            assert records[name].pinned is (name in model.pins)
        aliases = {
            alias.name: [(each.name, each.generation) for each in alias.targets]
            for alias in registry.aliases()
        }
        assert aliases == {
            alias: [(name, words and generation_of(words)) for name, words in targets]
            for alias, targets in model.aliases.items()
        }

    @invariant()
    def has_on_disk_what_is_needed_and_nothing_else(self) -> None:
        needed = self.model.kept() | set(self.model.leased())
        assert self.world.store.catalogue.generations().keys() == set(map(generation_of, needed))
        contents = {digest(words.encode()) for words in needed} | ({digest(CONFIG)} if needed else set())
        assert self.sizes().keys() == contents
        assert not list((self.world.folder / "incoming").iterdir())

    @invariant()
    def has_told_the_engine(self) -> None:
        near = self.model.reachable() | set(self.model.leased())
        told = [each for each in self.world.retired if each]
        assert Counter(told) == Counter(map(generation_of, self.near - near)), "each once, and only then"
        self.world.retired.clear()
        self.near = near
        pinned: set[str] = set()
        for generation, on in self.world.pins:
            (pinned.add if on else pinned.remove)(generation)
        assert pinned == {generation_of(self.model.names[name][0]) for name in self.model.pins}

    def sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in (self.world.folder / "blobs").glob("*/*/*")}

    def teardown(self) -> None:
        self.world.close()
        self.scratch.cleanup()


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
