"""What every name means at one moment: an immutable value, replaced whole by each change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from lorikeet_adapters.alias import choose
from lorikeet_adapters.errors import (
    AdapterChanged,
    AdapterConflict,
    AdapterIncompatible,
    AdapterInUse,
    AdapterNotFound,
    AliasRefused,
    GenerationNotFound,
    MixRefused,
    NameTaken,
)
from lorikeet_adapters.stored import (
    Change,
    HistoryEvent,
    StoredAlias,
    StoredGeneration,
    StoredName,
    Target,
)

ANY = "*"  # as what a caller expects: whatever the name means, if it means anything


@dataclass(frozen=True)
class Directory:
    """`generations` has everything on disk, also what only running requests still use.

    `leaving` are names that a deletion waits for: new requests do not find them.
    """

    base_name: str
    names: Mapping[str, StoredName] = field(default_factory=dict)
    aliases: Mapping[str, StoredAlias] = field(default_factory=dict)
    generations: Mapping[str, StoredGeneration] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name == self.base_name or name in self.names or name in self.aliases

    @cached_property
    def reachable(self) -> frozenset[str]:
        """Generations that a new request can mean."""
        current = {stored.generation for name, stored in self.names.items() if name not in self.leaving}
        return frozenset(current | {each.generation for each in self._targets if each.generation})

    @cached_property
    def holders(self) -> Mapping[str, str]:
        """The name each generation belongs to: one that means it, else one that can go back to it."""
        former = {each: name for name, stored in self.names.items() for each in stored.generations}
        return former | {stored.generation: name for name, stored in self.names.items()}

    @cached_property
    def kept(self) -> frozenset[str]:
        """Generations that some name has, or can go back to."""
        return frozenset(generation for stored in self.names.values() for generation in stored.generations)

    @cached_property
    def pinned(self) -> frozenset[str]:
        """Generations that stay on the device: what pinned names mean, where it fits the base."""
        meant = {stored.generation for stored in self.names.values() if stored.details["pinned"]}
        return frozenset(each for each in meant & self.reachable if not self.generations[each].findings)

    @cached_property
    def pinned_rows(self) -> int:
        """Rank rows that the pinned generations take together."""
        return sum(map(self.rows_of, self.pinned))

    def rows_of(self, generation: str) -> int:
        """Rank rows that a generation takes on the device."""
        return max(map(int, self.generations[generation].facts["ranks"].values()))

    @property
    def _targets(self) -> list[Target]:
        return [target for alias in self.aliases.values() for target in alias.targets]

    def named(self, name: str) -> StoredName:
        """Raises AdapterNotFound."""
        try:
            return self.names[name]
        except KeyError:
            raise AdapterNotFound(name) from None

    def having(self, name: str, generation: str) -> StoredName:
        """The same, for a name that has this generation on disk. Raises GenerationNotFound too."""
        stored = self.named(name)
        if generation not in stored.generations:
            raise GenerationNotFound(name, generation)
        return stored

    def aliases_of(self, name: str) -> list[str]:
        """The aliases that send requests to this adapter."""
        return [
            alias.name for alias in self.aliases.values() if name in {each.name for each in alias.targets}
        ]

    def meaning(self, name: str, point: Callable[[str], float]) -> str:
        """The generation that a new request for `name` gets; `point` draws where in an alias's split it falls.

        Raises AdapterNotFound, AdapterIncompatible, or MixRefused for the base, which is no adapter.
        """
        if name == self.base_name:
            raise MixRefused(f"`{name}` is the base model and takes no weight in a mix; leave it out")
        wanted: str | None = None
        meant = name
        if name in self.aliases:
            target = choose(self.aliases[name].targets, point(name))
            meant, wanted = target.name, target.generation
        if meant in self.leaving:
            raise AdapterNotFound(name)
        generation = wanted or self.named(meant).generation
        if findings := self.generations[generation].findings:
            raise AdapterIncompatible(
                f"`{name}` does not fit the base `{self.base_name}`: {findings[0]['message']}; "
                f"GET /v1/adapters/{meant} has every reason"
            )
        return generation

    def check_free(self, name: str, kind: str) -> None:
        """Raises NameTaken unless an adapter or alias, as `kind` says, may have this name."""
        others = {"adapter": self.aliases, "alias": self.names}
        if name == self.base_name:
            raise NameTaken(f"`{name}` is the base model's own name; choose another name")
        if name in others[kind]:
            other = "an alias" if kind == "adapter" else "an adapter"
            raise NameTaken(f"`{name}` is {other} already; choose another name")

    def changeable(self, name: str, expected: str | None) -> StoredName:
        """The name as it is, if it may be changed now.

        Raises AdapterChanged when it does not mean what is expected, AdapterNotFound, and AdapterInUse
        while a deletion waits.
        """
        known = self.names.get(name)
        if expected is not None and (known is None or expected not in (ANY, known.generation)):
            now = "there is no such adapter" if known is None else f"it means {known.generation}"
            raise AdapterChanged(f"`{name}` does not mean the generation expected; {now}")
        if name in self.leaving:
            raise AdapterInUse(f"`{name}` is being deleted and waits for running requests; try again later")
        return self.named(name)

    def claim(
        self, name: str, generation: str, may_replace: bool, expected: str | None
    ) -> HistoryEvent | None:
        """What it would be to give `name` this generation; None where it has it.

        Raises what `changeable` raises, NameTaken, and AdapterConflict for other bytes without leave to
        replace them.
        """
        self.check_free(name, "adapter")
        known = self.names.get(name)
        if known is not None and known.generation == generation and name not in self.leaving:
            return None  # also when another was expected: what was wanted is so
        if known is None and expected is None:
            return HistoryEvent.REGISTERED
        self.changeable(name, expected)
        if not may_replace and expected is None:
            raise AdapterConflict(f"`{name}` is taken by other bytes; send replace, or choose another name")
        return HistoryEvent.REPLACED

    def check_targets(self, targets: tuple[Target, ...]) -> None:
        """Raises AliasRefused, AdapterNotFound or GenerationNotFound for what cannot be meant."""
        for target in targets:
            if target.name == self.base_name or target.name in self.aliases:
                what = "the base model" if target.name == self.base_name else "an alias"
                raise AliasRefused(f"`{target.name}` is {what}; an alias has adapters as its targets")
            self.named(target.name)
            if target.generation is not None:
                self.having(target.name, target.generation)

    def keeping(self, name: str, generation: str, most: int) -> tuple[str, ...]:
        """The generations of `name` once it means this one: the newest `most`, and those an alias names."""
        known = self.names.get(name)
        order = (generation, *(each for each in (known.generations if known else ()) if each != generation))
        needed = {each.generation for each in self._targets if each.name == name}
        return tuple(each for place, each in enumerate(order) if place < most or each in needed)

    def after(self, change: Change) -> Directory:
        """What names mean once a change is committed."""
        names, aliases = dict(self.names), dict(self.aliases)
        if isinstance(change.remove, StoredName):
            del names[change.remove.name]
        elif change.remove is not None:
            del aliases[change.remove.name]
        if isinstance(change.put, StoredName):
            names[change.put.name] = change.put
        elif change.put is not None:
            aliases[change.put.name] = change.put
        return replace(
            self,
            names=names,
            aliases=aliases,
            generations={**self.generations, **change.generations},
            leaving=self.leaving & names.keys(),
        )

    def leave(self, name: str) -> Directory:
        return replace(self, leaving=self.leaving | {name})

    def stay(self, name: str) -> Directory:
        return replace(self, leaving=self.leaving - {name})

    def without(self, generations: frozenset[str]) -> Directory:
        left = {key: each for key, each in self.generations.items() if key not in generations}
        return replace(self, generations=left)
