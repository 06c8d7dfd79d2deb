"""Where `lorikeet adapters` does its work: a running server, or the data folder when nobody holds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.lock import holder_url
from lorikeet_adapters.registry import AdapterRecord, Registry
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.store import CATALOGUE, Store, open_store

TIMEOUT_S = 120


class Desk(Protocol):
    """Records are those of GET /v1/adapters."""

    def add(self, folder: Path, name: str, replace: bool) -> dict[str, Any]: ...
    def records(self) -> list[dict[str, Any]]: ...
    def remove(self, name: str) -> int | None: ...


class ServerDesk:
    """Sends the work to the server at `url`; its refusals become RefusedError with its own message."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def add(self, folder: Path, name: str, replace: bool) -> dict[str, Any]:
        source = {"type": "local", "path": str(folder.resolve())}
        return self._call("POST", "/v1/adapters", {"name": name, "source": source, "replace": replace})

    def records(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self._call("GET", "/v1/adapters")["data"]
        return listed

    def remove(self, name: str) -> int | None:
        freed: int | None = self._call("DELETE", f"/v1/adapters/{quote(name)}")["freed_bytes"]
        return freed

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(self._url + path, data, {"content-type": "application/json"}, method=method)
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
    """Works on the data folder itself, against the base it was last served with."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._source, self._name = store.base() or ("demo", "demo")

    def add(self, folder: Path, name: str, replace: bool) -> dict[str, Any]:
        from lorikeet_adapters.base_model import outline  # pulls torch, which listing does without
        from lorikeet_adapters.check import Checker

        registry = Registry(self._store, self._name, Checker(outline(self._source), self._name, self._source))
        with open_folder(folder) as files:
            record, _ = registry.register(name, files, replace=replace)
        registry.close()
        return _wire(record)

    def records(self) -> list[dict[str, Any]]:
        return [_wire(record) for record in self._registry().records()]

    def remove(self, name: str) -> int | None:
        return self._registry().delete(name, timeout=0)

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
