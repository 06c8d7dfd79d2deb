"""What every name means at one moment: an immutable value, replaced whole by each change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from lorikeet_adapters.access import EVERYONE
from lorikeet_adapters.alias import choose
from lorikeet_adapters.batch import Batch
from lorikeet_adapters.errors import (
    AccessRefused,
    AdapterChanged,
    AdapterConflict,
    AdapterIncompatible,
    AdapterInUse,
    AdapterNotFound,
    AliasRefused,
    ChatRefused,
    DoraRefused,
    GenerationNotFound,
    MixRefused,
    NameRefused,
    NameTaken,
)
from lorikeet_adapters.mix import Mix
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
        """Generations that a new request can mean. What is damaged is refused, so that what was loaded of it goes."""
        current = {stored.generation for name, stored in self.names.items() if name not in self.leaving}
        meant = current | {each.generation for each in self._targets if each.generation}
        return frozenset(each for each in meant if not self.generations[each].is_damaged)

    @cached_property
    def holders(self) -> Mapping[str, str]:
        """The name each generation belongs to: one that means it, else one that can go back to it.

        Private names are left out: this is for metrics, which everybody may read.
        """
        public = {name: stored for name, stored in self.names.items() if stored.access == EVERYONE}
        former = {each: name for name, stored in public.items() for each in stored.generations}
        return former | {stored.generation: name for name, stored in public.items()}

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
        return self.generations[generation].rows

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

    def sees(self, name: str, tenant: str | None) -> bool:
        """Is there such a name for this tenant; an alias is there for whoever may use all its targets."""
        if name in self.aliases:
            return all(self.names[each.name].access.lets_use(tenant) for each in self.aliases[name].targets)
        return name == self.base_name or (name in self.names and self.names[name].access.lets_use(tenant))

    def check_alias(self, name: str, by: str | None) -> None:
        """Raises NameTaken unless an alias may have this name, AccessRefused for one that is not this tenant's own."""
        self.check_free(name, "alias", by)
        if name in self.aliases:
            self.check_own(name, by)

    def check_own(self, name: str, tenant: str | None) -> None:
        """Raises AdapterNotFound for a name that this tenant does not see, AccessRefused for one not its own."""
        if not self.sees(name, tenant):
            raise AdapterNotFound(name)
        meant = [each.name for each in self.aliases[name].targets] if name in self.aliases else [name]
        if not all(self.names[each].access.lets_change(tenant) for each in meant):
            raise AccessRefused(f"`{name}` is shared with your tenant; only the operator changes it")

    def meaning(
        self, name: str, point: Callable[[str], float], tenant: str | None = None, *, chat: bool = False
    ) -> str:
        """The generation that a new request for `name` gets; `point` draws where in an alias's split it falls.

        Raises AdapterNotFound, AdapterIncompatible, ChatRefused in a `chat`, or MixRefused for the base,
        which is no adapter.
        """
        if name == self.base_name:
            raise MixRefused(f"`{name}` is the base model and takes no weight in a mix; leave it out")
        if not self.sees(name, tenant):
            raise AdapterNotFound(name)
        wanted: str | None = None
        meant = name
        if name in self.aliases:
            target = choose(self.aliases[name].targets, point(name))
            meant, wanted = target.name, target.generation
        if meant in self.leaving:
            raise AdapterNotFound(name)
        generation = wanted or self.named(meant).generation
        if findings := (stored := self.generations[generation]).findings:
            verdict = "is not served" if stored.is_damaged else f"does not fit the base `{self.base_name}`"
            raise AdapterIncompatible(
                f"`{name}` {verdict}: {findings[0]['message']}; the record of `{meant}` has every reason"
            )
        if chat and (why := self.generations[generation].facts.get("chat")):
            raise ChatRefused(
                f"`{name}` is not served in a chat: {why}; "
                "/v1/completions and /generate take the prompt it was trained on as text"
            )
        return generation

    def check_blend(self, mix: Mix, names: Mapping[str, str]) -> None:
        """Raises DoraRefused for a generation that cannot be weighted, by the name it was asked by."""
        for generation in () if mix.is_single else mix.adapters:
            # What an earlier version registered does not say so; the engine learns it from the file.
            if self.generations[generation].facts.get("dora"):
                raise DoraRefused(names[generation])

    def check_free(self, name: str, kind: str, by: str | None = None) -> None:
        """Raises NameTaken unless an adapter or alias, as `kind` says, may have this name.

        All tenants share one namespace, so a name that is private to another shows as taken, and no more.
        """
        if name in self and not self.sees(name, by):
            raise NameTaken(f"`{name}` is taken; choose another name")
        others = {"adapter": self.aliases, "alias": self.names}
        if name == self.base_name:
            raise NameTaken(f"`{name}` is the base model's own name; choose another name")
        if name in others[kind]:
            other = "an alias" if kind == "adapter" else "an adapter"
            raise NameTaken(f"`{name}` is {other} already; choose another name")

    def changeable(self, name: str, expected: str | None, by: str | None = None) -> StoredName:
        """The name as it is, if this tenant may change it now.

        Raises what `check_own` raises, AdapterChanged when it does not mean what is expected, AdapterNotFound, and AdapterInUse
        while a deletion waits.
        """
        known = self.names.get(name) if self.sees(name, by) else None
        if known is not None:
            self.check_own(name, by)
        if expected is not None and (known is None or expected not in (ANY, known.generation)):
            now = "there is no such adapter" if known is None else f"it means {known.generation}"
            raise AdapterChanged(f"`{name}` does not mean the generation expected; {now}")
        if known is None:
            raise AdapterNotFound(name)
        if name in self.leaving:
            raise AdapterInUse(f"`{name}` is being deleted and waits for running requests; try again later")
        return known

    def deletable(self, name: str, expected: str | None, by: str | None = None) -> StoredName:
        """The name as it is, if this tenant may delete it now. Raises what `changeable` raises, and NameRefused."""
        if name == self.base_name:
            raise NameRefused(f"`{name}` is the base model; it stays as long as the server runs")
        stored = self.changeable(name, expected, by)
        if aliases := self.aliases_of(name):
            seen = next((f"the alias `{each}`" for each in aliases if self.sees(each, by)), "an alias")
            raise AdapterInUse(f"`{name}` is a target of {seen}; change that first")
        return stored

    def claim(
        self, name: str, generation: str, may_replace: bool, expected: str | None, by: str | None = None
    ) -> HistoryEvent | None:
        """What it would be to give `name` this generation; None where it has it.

        Raises what `changeable` raises, NameTaken, and AdapterConflict for other bytes without leave to
        replace them.
        """
        self.check_free(name, "adapter", by)
        known = self.names.get(name)
        if known is not None:
            self.check_own(name, by)
        if known is not None and known.generation == generation and name not in self.leaving:
            return None  # also when another was expected: what was wanted is so
        if known is None and expected is None:
            return HistoryEvent.REGISTERED
        self.changeable(name, expected, by)
        if not may_replace and expected is None:
            raise AdapterConflict(f"`{name}` is taken by other bytes; say replace, or choose another name")
        return HistoryEvent.REPLACED

    def check_targets(self, targets: tuple[Target, ...], by: str | None = None) -> None:
        """A tenant's alias has the tenant's own adapters as targets. Raises what `check_own` raises, AliasRefused, AdapterNotFound or GenerationNotFound for what cannot be meant."""
        for target in targets:
            if not self.sees(target.name, by):
                raise AdapterNotFound(target.name)
            if target.name == self.base_name or target.name in self.aliases:
                what = "the base model" if target.name == self.base_name else "an alias"
                raise AliasRefused(f"`{target.name}` is {what}; an alias has adapters as its targets")
            self.check_own(target.name, by)
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

    def following(self, batch: Batch, brought: Mapping[str, StoredGeneration]) -> Directory:
        """What names mean where a batch leads; `brought` are its generations that were not known here."""
        names, aliases = ({}, {}) if batch.is_snapshot else (dict(self.names), dict(self.aliases))
        names = {key: each for key, each in names.items() if key not in batch.names_removed}
        aliases = {key: each for key, each in aliases.items() if key not in batch.aliases_removed}
        names |= {each.name: each for each in batch.names}
        return replace(
            self,
            names=names,
            aliases=aliases | {each.name: each for each in batch.aliases},
            generations={**self.generations, **brought},
            leaving=self.leaving & names.keys(),
        )

    def leave(self, name: str) -> Directory:
        return replace(self, leaving=self.leaving | {name})

    def stay(self, name: str) -> Directory:
        return replace(self, leaving=self.leaving - {name})

    def judging(self, stored: StoredGeneration) -> Directory:
        return replace(self, generations={**self.generations, stored.generation: stored})

    def without(self, generations: frozenset[str]) -> Directory:
        left = {key: each for key, each in self.generations.items() if key not in generations}
        return replace(self, generations=left)
