"""A registry as one tenant has it: what is private to others does not exist, and only its own can be changed.

The routes know no other way to the registry, so no route can forget to ask. What can be changed by
another thread meanwhile is judged where the registry itself decides, under its lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Literal, TypeAlias

from lorikeet_adapters.access import Access
from lorikeet_adapters.directory import Directory
from lorikeet_adapters.errors import AccessRefused, AdapterNotFound
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.names import check_name, nearest
from lorikeet_adapters.record import AdapterFacts, AdapterRecord, Freed
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.stored import HistoryEvent, StoredAlias, StoredEvent, Target

Kind: TypeAlias = Literal["adapter", "alias", "model"]  # a model is what a request can name: any of the three


class View:
    """`tenant` None is the operator's view: everything. Methods raise what those of `Registry` raise.

    AdapterNotFound says what the name is instead, or which one may be meant, out of what this tenant sees.
    """

    def __init__(self, registry: Registry, tenant: str | None) -> None:
        self._registry = registry
        self.tenant = tenant

    @property
    def base_name(self) -> str:
        return self._registry.base_name

    def is_name(self, name: str) -> bool:
        return self._registry.directory.sees(name, self.tenant)

    def name_of(self, generation: str) -> str | None:
        """For metrics: the public name that a generation belongs to."""
        return self._registry.directory.holders.get(generation)

    def is_private(self, generation: str) -> bool:
        """For metrics: names have this generation, and none of them is public."""
        directory = self._registry.directory
        return generation in directory.kept and generation not in directory.holders

    def records(self) -> list[AdapterRecord]:
        found = self._registry.records()
        return [self._shown(each) for each in found if each.access.lets_use(self.tenant)]

    def record(self, name: str) -> AdapterRecord:
        with self._pointing("adapter"):
            record = self._registry.record(name)
            if not record.access.lets_use(self.tenant):
                raise AdapterNotFound(name)
        return self._shown(record)

    def aliases(self) -> list[StoredAlias]:
        return [each for each in self._registry.aliases() if self.is_name(each.name)]

    def alias(self, name: str) -> StoredAlias:
        with self._pointing("alias"):
            alias = self._registry.alias(name)
            if not self.is_name(name):
                raise AdapterNotFound(name)
        return alias

    def history(self, name: str, limit: int = 100, before: int | None = None) -> list[StoredEvent]:
        """A tenant sees what happened to a name that it sees, since the name is what it is to this tenant.

        That is since it was last free and, of an adapter, since it was last given to others; of an alias, the
        targets that the tenant sees, since the same.
        """
        with self._pointing("adapter"):
            if self.tenant is None:
                return self._registry.history(name, limit, before)
            if not self.is_name(name) or name == self.base_name:
                raise AdapterNotFound(name)
            directory = self._registry.directory
            found = self._registry.history(name, -1, before)
        ends = (HistoryEvent.DELETED, HistoryEvent.ALIAS_DELETED)
        since = self._registry.store.catalogue.last(name, ends)
        return [each for each in found if each.id > since and self._tells(directory, each)][:limit]

    def answer(self, key: str) -> tuple[str, str] | None:
        """What this tenant was answered under an Idempotency-Key; see `Notes.answer`."""
        return self._registry.store.notes.answer(self.tenant or "", key)

    def remember_answer(self, key: str, request: str, answer: str) -> None:
        self._registry.store.notes.remember_answer(self.tenant or "", key, request, answer)

    def lease(
        self, terms: Iterable[Term], count: int = 1, user: str | None = None, *, chat: bool = False
    ) -> Mix:
        with self._pointing("model"):
            return self._registry.lease(terms, count, user, self.tenant, chat=chat)

    def release(self, mix: Mix) -> None:
        self._registry.release(mix)

    def check_free(self, name: str) -> None:
        """Raises NameRefused or NameTaken for what no adapter of this tenant's can be called."""
        self._registry.directory.check_free(check_name(name), "adapter", self.tenant)

    def check_claim(
        self, name: str, provenance: Mapping[str, object], *, replace: bool, expected: str | None
    ) -> None:
        """Raises what `register` would for this name and bytes made in this way, before they are made."""
        self.check_free(name)
        known = self._registry.directory.names.get(name)
        if known is not None and known.details["provenance"] == provenance:
            return  # most likely the same bytes
        self._registry.directory.claim(name, "", replace, expected, self.tenant)

    def register(
        self,
        name: str,
        files: AdapterFiles,
        *,
        replace: bool = False,
        expected: str | None = None,
        metadata: Mapping[str, object] | None = None,
        pinned: bool | None = None,
        access: Access | None = None,
        provenance: Mapping[str, object] | None = None,
    ) -> tuple[AdapterRecord, bool]:
        """What a tenant registers is private to it."""
        return self._registry.register(
            name,
            files,
            replace=replace,
            expected=expected,
            metadata=metadata,
            pinned=pinned,
            access=self.grant(access) or self._own,
            provenance=provenance,
            by=self.tenant,
        )

    def judge(self, files: AdapterFiles) -> AdapterFacts:
        return self._registry.judge(files)

    def activate(self, name: str, generation: str, expected: str | None = None) -> tuple[AdapterRecord, bool]:
        with self._pointing("adapter"):
            return self._registry.activate(name, generation, expected, by=self.tenant)

    def update(
        self,
        name: str,
        *,
        pinned: bool | None = None,
        metadata: Mapping[str, object] | None = None,
        access: Access | None = None,
        expected: str | None = None,
    ) -> AdapterRecord:
        said = {"pinned": pinned, "metadata": metadata, "access": self.grant(access)}
        with self._pointing("adapter"):
            return self._registry.update(name, **said, expected=expected, by=self.tenant)  # type: ignore[arg-type]

    def delete(self, name: str, timeout: float, expected: str | None = None) -> Freed:
        with self._pointing("adapter"):
            return self._registry.delete(name, timeout, expected, by=self.tenant)

    def put_alias(self, name: str, targets: Sequence[Target]) -> tuple[StoredAlias, bool]:
        with self._pointing("adapter"):
            return self._registry.put_alias(name, targets, by=self.tenant)

    def delete_alias(self, name: str) -> None:
        with self._pointing("alias"):
            self._registry.delete_alias(name, by=self.tenant)

    def grant(self, access: Access | None) -> Access | None:
        """The same, if this tenant may say so. Raises AccessRefused."""
        if access is not None and not access.lets_change(self.tenant):
            raise AccessRefused(
                f"tenants: this key's tenant is `{self.tenant}` and can keep adapters for itself only; "
                "the operator shares them"
            )
        return access

    def missing(self, name: str, kind: Kind = "model") -> AdapterNotFound:
        """Why there is no such adapter, alias or model for this tenant."""
        directory = self._registry.directory
        others = {"an adapter": directory.names, "an alias": directory.aliases}
        others["the base model"] = {self.base_name: None}
        seen = {
            what: [each for each in names if self.is_name(each) and each not in directory.leaving]
            for what, names in others.items()
        }
        wanted = f"an {kind}"
        if kind != "model" and (what := next((each for each in seen if name in seen[each]), "")):
            return AdapterNotFound(name, f"`{name}` is {what}, not {wanted}")
        near = nearest(name, chain(*seen.values()) if kind == "model" else seen[wanted])
        return AdapterNotFound(
            name, f"the model `{name}` does not exist; did you mean `{near}`?" if near else ""
        )

    @contextmanager
    def _pointing(self, kind: Kind) -> Iterator[None]:
        try:
            yield
        except AdapterNotFound as error:
            raise self.missing(error.name, kind) from None

    @property
    def _own(self) -> Access | None:
        return None if self.tenant is None else Access((self.tenant,))

    def _tells(self, directory: Directory, event: StoredEvent) -> bool:
        """Is it about adapters that the tenant may use, and about nothing from before it might?"""
        subjects = [each.name for each in event.targets] or [event.name]
        return all(
            name in directory.names
            and directory.names[name].access.lets_use(self.tenant)
            and event.id > directory.names[name].shared_after
            for name in subjects
        )

    def _shown(self, record: AdapterRecord) -> AdapterRecord:
        """Of what is shared with it a tenant does not learn with whom else, from where, or out of what."""
        if self.tenant is None or record.access.lets_change(self.tenant):
            return record
        access = record.access if record.access.tenants is None else self._own or record.access
        source = {"type": record.source["type"]} if "type" in record.source else {}
        return replace(record, access=access, source=source, provenance=None)
