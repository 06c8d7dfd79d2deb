"""Where `lorikeet adapters` does its work: a running server, or the data folder when nobody holds it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from lorikeet_adapters.access import Access
from lorikeet_adapters.errors import AdapterRefused, RefusedError
from lorikeet_adapters.finding import verdict
from lorikeet_adapters.hub import is_repo, open_place
from lorikeet_adapters.lock import holder_url
from lorikeet_adapters.mix import Term
from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.recipe import MajoritySign, Method, Recipe
from lorikeet_adapters.record import AdapterFacts
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.source import AdapterFiles, open_folder
from lorikeet_adapters.spec import AdapterSpec
from lorikeet_adapters.store import CATALOGUE, Store, open_store
from lorikeet_adapters.stored import Target
from lorikeet_adapters.tar import pack_files
from lorikeet_adapters.view import View
from lorikeet_server.api.records import MOST, alias_object, event_object, freed_object, record_object
from lorikeet_server.config import HttpConfig

TIMEOUT_S = 120
Wire = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """What the operator named: a folder, or a hub id at a revision."""

    word: str
    revision: str = "main"


class Desk(Protocol):
    """Records, events, aliases and verdicts are those of the routes."""

    def add(self, place: Place, name: str, replace: bool, tenants: Sequence[str]) -> Wire: ...
    def check(self, place: Place) -> Wire: ...
    def records(self) -> list[Wire]: ...
    def record(self, name: str) -> Wire: ...
    def history(self, name: str) -> list[Wire]: ...
    def activate(self, name: str, generation: str) -> Wire: ...
    def pin(self, name: str, pinned: bool) -> Wire: ...
    def remove(self, name: str) -> Wire: ...
    def compose(self, body: Wire) -> Wire: ...
    def aliases(self) -> list[Wire]: ...
    def put_alias(self, name: str, targets: Sequence[Wire]) -> Wire: ...
    def delete_alias(self, name: str) -> Wire: ...


class ServerDesk:
    """Sends the work to the server at `url`; its refusals become RefusedError with its own message."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def add(self, place: Place, name: str, replace: bool, tenants: Sequence[str]) -> Wire:
        access = {"tenants": list(tenants)} if tenants else {}
        return self._send(place, {"name": name, "replace": replace, **access}, {})

    def check(self, place: Place) -> Wire:
        try:
            return self._send(place, {}, {"dry_run": "true"})
        except AdapterRefused as refused:  # here already: what is no adapter folder is not sent
            return verdict(refused.findings)

    def records(self) -> list[Wire]:
        return self._pages("/v1/adapters")

    def record(self, name: str) -> Wire:
        return self._call("GET", f"/v1/adapters/{quote(name)}")

    def history(self, name: str) -> list[Wire]:
        return self._pages(f"/v1/adapters/history/{quote(name)}")

    def activate(self, name: str, generation: str) -> Wire:
        return self._call("POST", f"/v1/adapters/activate/{quote(name)}", {"generation": generation})

    def pin(self, name: str, pinned: bool) -> Wire:
        return self._call("PATCH", f"/v1/adapters/{quote(name)}", {"pinned": pinned})

    def remove(self, name: str) -> Wire:
        return self._call("DELETE", f"/v1/adapters/{quote(name)}")

    def compose(self, body: Wire) -> Wire:
        return self._call("POST", "/v1/adapters/compose", body)

    def aliases(self) -> list[Wire]:
        return self._pages("/v1/aliases")

    def put_alias(self, name: str, targets: Sequence[Wire]) -> Wire:
        return self._call("PUT", f"/v1/aliases/{quote(name)}", {"targets": list(targets)})

    def delete_alias(self, name: str) -> Wire:
        return self._call("DELETE", f"/v1/aliases/{quote(name)}")

    def _pages(self, path: str) -> list[Wire]:
        found: list[Wire] = []
        page = self._call("GET", f"{path}?limit={MOST}")
        while True:
            found += page["data"]
            if not page["has_more"]:
                return found
            page = self._call("GET", f"{path}?limit={MOST}&after={quote(found[-1]['id'], safe='')}")

    def _send(self, place: Place, fields: Wire, query: dict[str, str]) -> Wire:
        """A hub id as it is; a folder's two files as a tar, because the server may be another machine."""
        if is_repo(place.word):
            source = {"type": "hub", "repo": place.word, "revision": place.revision}
            return self._call("POST", f"/v1/adapters?{urlencode(query)}", {**fields, "source": source})
        told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
        with open_folder(Path(place.word)) as files:
            length, pieces = pack_files(files)
            headers = {"content-type": "application/x-tar", "content-length": str(length)}
            return self._open("POST", f"/v1/adapters?{urlencode(told | query)}", pieces, headers)

    def request(
        self,
        method: str,
        path: str,
        data: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Request:
        """With the key, for this server only."""
        made = Request(self._url + path, data, headers or {}, method=method)
        if key := _api_key():
            made.add_unredirected_header("Authorization", f"Bearer {key}")
        return made

    def reason(self, error: HTTPError) -> str:
        try:
            return str(json.loads(error.read())["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"the server answered {error.code}"

    def _call(self, method: str, path: str, body: Wire | None = None) -> Wire:
        data = None if body is None else json.dumps(body).encode()
        return self._open(method, path, data, {"content-type": "application/json"})

    def _open(
        self, method: str, path: str, data: bytes | Iterator[bytes] | None, headers: dict[str, str]
    ) -> Wire:
        try:
            request = self.request(method, path, data, headers)
            with urlopen(request, timeout=TIMEOUT_S) as response:
                answer: Wire = json.load(response)
        except HTTPError as error:
            raise RefusedError(self.reason(error)) from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise RefusedError(
                f"cannot reach a server at {self._url}: {getattr(error, 'reason', error)}"
            ) from error
        return answer


class FolderDesk:
    """Works on the data folder itself, against `model` or else the base it was last served with."""

    def __init__(self, store: Store, model: str = "") -> None:
        self._store = store
        self._base = store.notes.base() or ServedBase("demo", "demo")
        if model:
            self._base = ServedBase(model, Path(model).name)
        self._named = bool(model)
        self._registry = Registry(store, self._base.name, no_check, keep=self._base.keep)

    def add(self, place: Place, name: str, replace: bool, tenants: Sequence[str]) -> Wire:
        registry = self._judging_registry()
        with self._opened(place) as files:
            record, _ = registry.register(name, files, replace=replace, access=Access.of(tenants or None))
        registry.close()
        return record_object(record, self._base.name)

    def check(self, place: Place) -> Wire:
        registry = self._judging_registry()
        try:
            with self._opened(place) as files:
                facts = registry.judge(files)
        except AdapterRefused as refused:
            return verdict(refused.findings)
        finally:
            registry.close()
        return verdict([], facts.warnings)

    def records(self) -> list[Wire]:
        return [record_object(record, self._base.name) for record in self._registry.records()]

    def record(self, name: str) -> Wire:
        return record_object(self._registry.record(name), self._base.name)

    def history(self, name: str) -> list[Wire]:
        return [event_object(event) for event in self._registry.history(name, limit=-1)]

    def activate(self, name: str, generation: str) -> Wire:
        return record_object(self._registry.activate(name, generation)[0], self._base.name)

    def pin(self, name: str, pinned: bool) -> Wire:
        return record_object(self._registry.update(name, pinned=pinned), self._base.name)

    def remove(self, name: str) -> Wire:
        return freed_object(name, self._registry.delete(name, timeout=0))

    def compose(self, body: Wire) -> Wire:
        from lorikeet_adapters.base_model import outline
        from lorikeet_adapters.composer import Composer

        registry = self._judging_registry()
        recipe = Recipe(
            Method(body["method"]),
            body["density"],
            MajoritySign(body["majority_sign_method"]),
            body["rank"],
        )
        terms = [Term(each["name"], each["weight"]) for each in body["adapters"]]
        composer = Composer(registry, outline(self._base.source))
        record, _ = composer.make(View(registry, None), body["name"], terms, recipe, replace=body["replace"])
        registry.close()
        return record_object(record, self._base.name)

    def aliases(self) -> list[Wire]:
        return [alias_object(alias) for alias in self._registry.aliases()]

    def put_alias(self, name: str, targets: Sequence[Wire]) -> Wire:
        alias, _ = self._registry.put_alias(name, [Target(**each) for each in targets])
        return alias_object(alias, self._registry.history(name))

    def delete_alias(self, name: str) -> Wire:
        self._registry.delete_alias(name)
        return {"object": "alias", "id": name, "deleted": True}

    def _opened(self, place: Place) -> AbstractContextManager[AdapterFiles]:
        return open_place(place.word, place.revision, self._store.intake, HttpConfig().max_adapter_bytes)

    def _judging_registry(self) -> Registry:
        from lorikeet_adapters.base_model import (  # pulls torch, which the rest does without
            outline,
            resolve_source,
        )
        from lorikeet_adapters.check import Checker
        from lorikeet_adapters.checkpoint import checkpoint_digest

        base = self._base
        if self._named:
            base = replace(base, checkpoint=checkpoint_digest(resolve_source(base.source)))
        checker = Checker(outline(base.source), base.name, base.source, served=base.origin)
        key = base.origin.key if base.fingerprint else ""
        return Registry(self._store, base.name, checker, fingerprint=key, keep=base.keep)


def no_check(spec: AdapterSpec, weights: Path) -> AdapterFacts:
    """For a registry that is not asked to add anything."""
    raise AssertionError("only adding checks files")


@contextmanager
def open_desk(url: str, data_dir: Path, *, may_make: bool = False) -> Iterator[Desk]:
    """The server named, or the one that holds the data folder, or else the folder itself.

    With `may_make` a folder that is missing or empty becomes a data folder. Raises RefusedError for
    any other that is none.
    """
    found = url or holder_url(data_dir)
    if found:
        yield ServerDesk(found)
        return
    fresh = may_make and (not data_dir.exists() or (data_dir.is_dir() and not any(data_dir.iterdir())))
    if not fresh and not (data_dir / CATALOGUE).is_file():
        why = "it has no catalogue" if data_dir.exists() else "it does not exist"
        raise RefusedError(
            f"{data_dir} is no data folder: {why}; name the server's with --data-dir, "
            "or a running server with --url"
        )
    with open_store(data_dir) as store:
        yield FolderDesk(store)


@contextmanager
def open_trial_desk(model: str, url: str, data_dir: Path) -> Iterator[Desk]:
    """For `check` alone. Against a model that was named, or where there is no data folder, none is touched."""
    if model or not (url or data_dir.exists()):
        with TemporaryDirectory() as folder, open_store(Path(folder)) as store:
            yield FolderDesk(store, model)
        return
    with open_desk(url, data_dir) as desk:
        yield desk


def _api_key() -> str:
    """From the environment alone: a flag would show in every list of processes. Raises RefusedError."""
    key = os.environ.get("LORIKEET_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise RefusedError("LORIKEET_API_KEY has characters that no key has; set it to the key alone")
    return key
