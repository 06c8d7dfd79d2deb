"""Where `lorikeet adapters` does its work: a running server, or the data folder when nobody holds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from lorikeet_adapters.errors import AdapterRefused, RefusedError
from lorikeet_adapters.finding import verdict
from lorikeet_adapters.hub import is_repo, open_place
from lorikeet_adapters.lock import holder_url
from lorikeet_adapters.registry import AdapterRecord, Registry
from lorikeet_adapters.source import AdapterFiles, open_folder
from lorikeet_adapters.store import CATALOGUE, Store, open_store
from lorikeet_adapters.tar import pack_files
from lorikeet_server.config import HttpConfig

TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Place:
    """What the operator named: a folder, or a hub id at a revision."""

    word: str
    revision: str = "main"


class Desk(Protocol):
    """Records are those of GET /v1/adapters, a verdict is that of its dry run."""

    def add(self, place: Place, name: str, replace: bool) -> dict[str, Any]: ...
    def check(self, place: Place) -> dict[str, Any]: ...
    def records(self) -> list[dict[str, Any]]: ...
    def remove(self, name: str) -> int | None: ...


class ServerDesk:
    """Sends the work to the server at `url`; its refusals become RefusedError with its own message."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def add(self, place: Place, name: str, replace: bool) -> dict[str, Any]:
        return self._send(place, {"name": name, "replace": replace}, {})

    def check(self, place: Place) -> dict[str, Any]:
        try:
            return self._send(place, {}, {"dry_run": "true"})
        except AdapterRefused as refused:  # here already: what is no adapter folder is not sent
            return verdict(refused.findings)

    def records(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self._call("GET", "/v1/adapters")["data"]
        return listed

    def remove(self, name: str) -> int | None:
        freed: int | None = self._call("DELETE", f"/v1/adapters/{quote(name)}")["freed_bytes"]
        return freed

    def _send(self, place: Place, fields: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        """A hub id as it is; a folder's two files as a tar, because the server may be another machine."""
        if is_repo(place.word):
            source = {"type": "hub", "repo": place.word, "revision": place.revision}
            return self._call("POST", f"/v1/adapters?{urlencode(query)}", {**fields, "source": source})
        told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
        with open_folder(Path(place.word)) as files:
            length, pieces = pack_files(files)
            headers = {"content-type": "application/x-tar", "content-length": str(length)}
            return self._open("POST", f"/v1/adapters?{urlencode(told | query)}", pieces, headers)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        return self._open(method, path, data, {"content-type": "application/json"})

    def _open(
        self, method: str, path: str, data: bytes | Iterator[bytes] | None, headers: dict[str, str]
    ) -> dict[str, Any]:
        try:
            request = Request(self._url + path, data, headers, method=method)
            with urlopen(request, timeout=TIMEOUT_S) as response:
                answer: dict[str, Any] = json.load(response)
        except HTTPError as error:
            raise RefusedError(_reason(error.read(), error.code)) from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise RefusedError(
                f"cannot reach a server at {self._url}: {getattr(error, 'reason', error)}"
            ) from error
        return answer


class FolderDesk:
    """Works on the data folder itself, against `model` or else the base it was last served with."""

    def __init__(self, store: Store, model: str = "") -> None:
        self._store = store
        named = (model, Path(model).name) if model else None
        self._source, self._name = named or store.base() or ("demo", "demo")

    def add(self, place: Place, name: str, replace: bool) -> dict[str, Any]:
        registry = self._judging_registry()
        with self._opened(place) as files:
            record, _ = registry.register(name, files, replace=replace)
        registry.close()
        return _wire(record)

    def check(self, place: Place) -> dict[str, Any]:
        registry = self._judging_registry()
        try:
            with self._opened(place) as files:
                registry.judge(files)
        except AdapterRefused as refused:
            return verdict(refused.findings)
        finally:
            registry.close()
        return verdict([])

    def records(self) -> list[dict[str, Any]]:
        return [_wire(record) for record in self._registry().records()]

    def remove(self, name: str) -> int | None:
        return self._registry().delete(name, timeout=0)

    def _opened(self, place: Place) -> AbstractContextManager[AdapterFiles]:
        return open_place(place.word, place.revision, self._store.intake, HttpConfig().max_adapter_bytes)

    def _judging_registry(self) -> Registry:
        from lorikeet_adapters.base_model import outline  # pulls torch, which listing does without
        from lorikeet_adapters.check import Checker

        return Registry(self._store, self._name, Checker(outline(self._source), self._name, self._source))

    def _registry(self) -> Registry:
        """For work that judges no files."""

        def unused(*_: object) -> None:
            raise AssertionError("listing and removing check nothing")

        return Registry(self._store, self._name, unused)  # type: ignore[arg-type]


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


def _wire(record: AdapterRecord) -> dict[str, Any]:
    return {
        "object": "adapter",
        "id": record.name,
        "generation": record.generation,
        "state": "registered",
        "tier": "disk",
        "rank": record.rank,
        "bytes": record.bytes,
        "warnings": list(record.warnings),
    }


def _reason(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"
