"""Replicas beside one plain registry: any order of changes at any of them, and an owner that dies at any word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lorikeet_adapters import shared
from lorikeet_adapters.errors import AdapterInUse, LorikeetError, RegistryAway
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.shared import SharedLedger
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import StoredEvent, Target
from tests.adapters.bundles import bundle, check_store
from tests.adapters.replicas import Line, Replica, contents, nothing
from tests.adapters.world import World

KEEP = 2
REPLICAS = 3
PATIENCE_S = 5.0  # of a change, unless the owner stays away
NAMES = st.sampled_from(["a", "b", "owner/c"])
ALIASES = st.sampled_from(["x", "frozen", "a"])  # `a` is sometimes an adapter
WORDS = st.sampled_from(["one", "two", "three", "four"])
PLACES = st.integers(0, REPLICAS - 1)
Change = Callable[[Registry], object]


class Death:
    """Of the owner, at the nth call of a method: before it is carried out or after; and is another there at once?

    After an append is after one that committed something: the others are like any question.
    """

    def __init__(self, line: Line, method: str, nth: int, is_after: bool, is_long: bool) -> None:
        self._line, self._method, self._left, self._is_long = line, method, nth, is_long
        self._newest = line.store.catalogue.newest() if is_after and method == "append" else -1
        line.before_call, line.after_call = (nothing, self) if is_after else (self, nothing)

    def __call__(self, method: str) -> None:
        if method != self._method or self._newest == self._line.store.catalogue.newest():
            return
        self._left -= 1
        if self._left == 0:
            self._line.kill()
            self._line.is_cut = self._is_long
            shared.PATIENCE_S *= not self._is_long
            raise RegistryAway("the owner died")


Plan = tuple[str, int, bool, bool] | None
DEATHS: st.SearchStrategy[Plan] = st.one_of(
    st.none(),
    st.tuples(st.just("append"), st.just(1), st.just(True), st.booleans()),
    st.tuples(
        st.sampled_from(["append", "put", "seal", "reached"]),
        st.sampled_from([1, 1, 2]),
        st.booleans(),
        st.sampled_from([False, False, True]),
    ),
    st.tuples(st.sampled_from(["since", "size", "read"]), st.integers(1, 2), st.booleans(), st.just(False)),
)


class ReplicasMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, seconds in (("REACHED_S", 0.0), ("AGAIN_S", 0.005), ("PATIENCE_S", PATIENCE_S)):
            self.patch.setattr(shared, name, seconds)
        self.scratch = TemporaryDirectory()
        self.folder = Path(self.scratch.name)
        self.line = Line(self.folder / "owner")
        self.single = World(self.folder / "single", keep=KEEP)
        self.leases: list[tuple[int, Mix, str]] = []

    @initialize()
    def begin(self) -> None:
        self.replicas = [self.open(place) for place in range(REPLICAS)]
        for place, name in enumerate(("a", "b", "owner/c")):
            for words in ("one", "two", name):
                self.register(place, name, words, may=True, pinned=None, plan=None)

    @rule(
        place=PLACES,
        name=NAMES,
        words=WORDS,
        may=st.booleans(),
        pinned=st.none() | st.booleans(),
        plan=DEATHS,
    )
    def register(self, place: int, name: str, words: str, may: bool, pinned: bool | None, plan: Plan) -> None:
        self.change(place, plan, lambda at: at.register(name, bundle(words), replace=may, pinned=pinned)[1])

    @rule(place=PLACES, name=NAMES, nth=st.integers(0, KEEP), plan=DEATHS)
    def activate(self, place: int, name: str, nth: int, plan: Plan) -> None:
        """Also what another replica gave up already."""
        if (known := self.replicas[place].registry.directory.names.get(name)) is not None:
            generation = known.generations[nth % len(known.generations)]
            self.change(place, plan, lambda at: at.activate(name, generation)[1])

    @rule(place=PLACES, name=NAMES, pinned=st.booleans(), plan=DEATHS)
    def pin(self, place: int, name: str, pinned: bool, plan: Plan) -> None:
        self.change(place, plan, lambda at: at.update(name, pinned=pinned).pinned)

    @rule(place=PLACES, alias=ALIASES, meant=NAMES, frozen=st.booleans(), plan=DEATHS)
    def put_alias(self, place: int, alias: str, meant: str, frozen: bool, plan: Plan) -> None:
        known = self.replicas[place].registry.directory.names.get(meant)
        generation = known.generations[-1] if known is not None and frozen else None
        self.change(place, plan, lambda at: at.put_alias(alias, [Target(meant, generation, 1)])[1])

    @rule(place=PLACES, alias=ALIASES, plan=DEATHS)
    def delete_alias(self, place: int, alias: str, plan: Plan) -> None:
        self.change(place, plan, lambda at: at.delete_alias(alias))

    @rule(place=PLACES, name=NAMES, plan=DEATHS)
    def delete(self, place: int, name: str, plan: Plan) -> None:
        self.change(place, plan, lambda at: at.delete(name, timeout=0).disk >= 0)

    @rule(place=PLACES, plan=DEATHS)
    def step(self, place: int, plan: Plan) -> None:
        with self.dying(plan and (*plan[:3], False)):
            self.replicas[place].follower.catch_up(30)
        assert contents(self.replicas[place].store) == contents(self.line.store)

    @rule(place=PLACES, name=NAMES)
    def lease(self, place: int, name: str) -> None:
        registry = self.replicas[place].registry
        if registry.is_name(name):
            mix = registry.lease([Term(name, 1.0)])
            self.leases.append((place, mix, registry.locate(mix.adapters[0]).weights.read_text()))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place, mix, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.replicas[place].registry.release(mix)
        self.replicas[place].registry._usage._janitor.submit(lambda: None).result()  # it has tidied up

    @rule(place=PLACES)
    def restart(self, place: int) -> None:
        self.replicas[place].close()
        self.leases = [each for each in self.leases if each[0] != place]
        self.replicas[place] = self.open(place)

    @rule()
    def kill_the_owner(self) -> None:
        self.line.kill()

    def change(self, place: int, plan: Plan, change: Change) -> None:
        """At a replica; and at the plain registry, if it came to be: once, where it was acknowledged."""
        store, before = self.replicas[place].store, self.history(self.line.store)
        knew_all = len(self.history(store)) == len(before)
        outcome: object
        with self.dying(plan):
            try:
                outcome = change(self.replicas[place].registry)
            except LorikeetError as error:
                outcome = type(error)
        made = self.history(self.line.store)[len(before) :]
        assert self.history(self.line.store)[: len(before)] == before
        assert len(made) <= 1
        assert outcome is not RegistryAway or (plan is not None and plan[3]), "only a long death is noticed"
        if made:
            assert outcome is RegistryAway or not is_error(outcome), outcome
            expected = change(self.single.registry)
            assert outcome in (expected, RegistryAway)
        elif knew_all and outcome is not RegistryAway:
            in_use_here = outcome is AdapterInUse and any(each[0] == place for each in self.leases)
            assert in_use_here or outcome == self.asked_of_the_single_one(change)
        if outcome is not RegistryAway and made:
            assert made[0] in self.history(store), "who is told of a change is served it"

    def asked_of_the_single_one(self, change: Change) -> object:
        """What it says to what changed nothing."""
        before = len(self.history(self.single.store))
        try:
            return change(self.single.registry)
        except LorikeetError as error:
            return type(error)
        finally:
            assert len(self.history(self.single.store)) == before

    @contextmanager
    def dying(self, plan: Plan) -> Iterator[None]:
        if plan is not None:
            Death(self.line, *plan)
        yield
        self.line.before_call = self.line.after_call = nothing
        self.line.is_cut = False
        shared.PATIENCE_S = PATIENCE_S
        for each in self.replicas:  # as the follower's thread would find
            assert isinstance(each.registry.ledger, SharedLedger)
            each.registry.ledger._away_since = None

    @invariant()
    def each_serves_what_was_so_at_one_moment(self) -> None:
        whole = self.history(self.line.store)
        for replica in self.replicas:
            known = self.history(replica.store)
            assert known == whole[: len(known)]
            directory = replica.registry.directory
            assert {each.name: each for each in replica.store.catalogue.names()} == directory.names
            assert {each.name: each for each in replica.store.catalogue.aliases()} == directory.aliases
            pinned: set[str] = set()
            for generation, on in replica.pins:
                (pinned.add if on else pinned.remove)(generation)
            assert pinned == directory.pinned

    @invariant()
    def what_runs_keeps_its_files(self) -> None:
        for place, mix, words in self.leases:
            assert self.replicas[place].registry.locate(mix.adapters[0]).weights.read_text() == words

    @invariant()
    def every_file_is_what_its_address_says(self) -> None:
        for store in (self.line.store, *(each.store for each in self.replicas)):
            check_store(store, store.folder, tidy=False)

    def history(self, store: Store) -> list[StoredEvent]:
        found = [
            each
            for name in ("a", "b", "owner/c", "x", "frozen")
            for each in store.catalogue.history(name, -1)
        ]
        return sorted(found, key=lambda each: each.id)

    def open(self, place: int) -> Replica:
        return Replica(self.folder / str(place), self.line, KEEP)

    def teardown(self) -> None:
        """In the end all agree with each other, and with the one that did all of it alone."""
        try:
            for _, mix, _ in self.leases:
                assert mix.adapters
            for each in self.replicas:
                each.step()
                each.close()  # which ends what ran
            whole = told(self.single.store)
            assert told(self.line.store) == whole
            for place in range(REPLICAS):
                with Store(self.folder / str(place)) as store:
                    assert contents(store) == contents(self.line.store)
                    check_store(store, store.folder)
        finally:
            self.single.close()
            self.line.close()
            self.patch.undo()
            self.scratch.cleanup()


def told(store: Store) -> list[object]:
    """All but when it was, and the marks."""
    names = [(each.name, each.generations, each.details) for each in store.catalogue.names()]
    aliases = [(each.name, each.targets) for each in store.catalogue.aliases()]
    ever = sorted(name for (name,) in store.catalogue.read("SELECT DISTINCT name FROM history"))
    events = [
        (each.id, each.name, each.event, each.generation, each.targets)
        for name in ever
        for each in store.catalogue.history(name, -1)
    ]
    return [*names, *aliases, *events, *sorted(store.catalogue.generations())]


def is_error(outcome: object) -> bool:
    return isinstance(outcome, type) and issubclass(outcome, LorikeetError)


TestReplicasMachine = ReplicasMachine.TestCase
TestReplicasMachine.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
