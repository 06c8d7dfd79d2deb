"""The desk that works on the data folder itself, when no server holds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lorikeet_adapters.access import Access
from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.finding import verdict
from lorikeet_adapters.hub import open_place
from lorikeet_adapters.mix import Term
from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.recipe import MajoritySign, Method, Recipe
from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import AdapterFiles
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Target
from lorikeet_adapters.view import View
from lorikeet_server.api.records import alias_object, event_object, freed_object, record_object
from lorikeet_server.config import HttpConfig
from lorikeet_server.desk import Place, Wire


class FolderDesk:
    """Works on the data folder itself, against `model` or else the base it was last served with."""

    def __init__(self, store: Store, model: str = "") -> None:
        self._store = store
        self._base = store.notes.base() or ServedBase("demo", "demo")
        if model:
            check_source(model)
            self._base = ServedBase(model, Path(model).name)
        self._view = View(Registry(store, self._base.name, no_check, keep=self._base.keep), None)

    def add(self, place: Place, name: str, replace: bool, tenants: Sequence[str]) -> Wire:
        access = Access.of(tenants or None)
        self._view.check_free(name)
        with self._opened(place) as files, self._judging() as registry:
            record, _ = registry.register(name, files, replace=replace, access=access)
        return record_object(record, self._base.name)

    def check(self, place: Place) -> Wire:
        try:
            with self._opened(place) as files, self._judging() as registry:
                return verdict((), registry.judge(files).warnings)
        except AdapterRefused as refused:
            return verdict(refused.findings)

    def records(self) -> list[Wire]:
        return [record_object(record, self._base.name) for record in self._view.records()]

    def record(self, name: str) -> Wire:
        return record_object(self._view.record(name), self._base.name)

    def history(self, name: str) -> list[Wire]:
        return [event_object(event) for event in self._view.history(name, limit=-1)]

    def activate(self, name: str, generation: str) -> Wire:
        return record_object(self._view.activate(name, generation)[0], self._base.name)

    def pin(self, name: str, pinned: bool) -> Wire:
        return record_object(self._view.update(name, pinned=pinned), self._base.name)

    def remove(self, name: str) -> Wire:
        return freed_object(name, self._view.delete(name, timeout=0))

    def compose(self, body: Wire) -> Wire:
        from lorikeet_adapters.base_model import outline
        from lorikeet_adapters.composer import Composer

        recipe = Recipe(
            Method(body["method"]),
            body["density"],
            MajoritySign(body["majority_sign_method"]),
            body["rank"],
        )
        terms = [Term(each["name"], each["weight"]) for each in body["adapters"]]
        with self._judging() as registry:
            composer = Composer(registry, outline(self._base.source))
            view = View(registry, None)
            record, _ = composer.make(view, body["name"], terms, recipe, replace=body["replace"])
        return record_object(record, self._base.name)

    def aliases(self) -> list[Wire]:
        return [alias_object(alias) for alias in self._view.aliases()]

    def put_alias(self, name: str, targets: Sequence[Wire]) -> Wire:
        alias, _ = self._view.put_alias(name, [Target(**each) for each in targets])
        return alias_object(alias, self._view.history(name))

    def delete_alias(self, name: str) -> Wire:
        self._view.delete_alias(name)
        return {"object": "alias", "id": name, "deleted": True}

    def _opened(self, place: Place) -> AbstractContextManager[AdapterFiles]:
        return open_place(place.word, place.revision, self._store.intake, HttpConfig().max_adapter_bytes)

    @contextmanager
    def _judging(self) -> Iterator[Registry]:
        """A registry that checks what it is given; it costs the import of torch, so it is opened last."""
        from lorikeet_adapters.base_model import outline
        from lorikeet_adapters.check import Checker

        base = self._base
        checker = Checker(outline(base.source), base.name, base.source)
        registry = Registry(self._store, base.name, checker, fingerprint=base.fingerprint, keep=base.keep)
        try:
            yield registry
        finally:
            registry.close()


def no_check(spec: AdapterSpec, weights: Path) -> AdapterFacts:
    """For a registry that is not asked to add anything."""
    raise AssertionError("only adding checks files")
