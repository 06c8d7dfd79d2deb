"""The desk that sends its work to a running server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from lorikeet_adapters.errors import AdapterRefused, RefusedError
from lorikeet_adapters.finding import verdict
from lorikeet_adapters.hub import is_repo
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.tar import pack_files
from lorikeet_server.api.records import MOST
from lorikeet_server.desk import Place, Wire

TIMEOUT_S = 120


class ServerRefused(RefusedError):
    """The server's own words; `code` is the one of its error, empty where it told none."""

    def __init__(self, message: str, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class ServerDesk:
    """Sends the work to the server at `url`. Raises ServerRefused."""

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
        with open_folder(Path(place.word), place.word) as files:
            length, pieces = pack_files(files)
            headers = {"content-type": "application/x-tar", "content-length": str(length)}
            return self._open("POST", f"/v1/adapters?{urlencode(told | query)}", pieces, headers)

    def _call(self, method: str, path: str, body: Wire | None = None) -> Wire:
        data = None if body is None else json.dumps(body).encode()
        return self._open(method, path, data, {"content-type": "application/json"})

    def _open(
        self, method: str, path: str, data: bytes | Iterator[bytes] | None, headers: dict[str, str]
    ) -> Wire:
        key = _api_key()
        try:
            request = Request(self._url + path, data, headers, method=method)
            if key:
                request.add_unredirected_header("Authorization", f"Bearer {key}")  # to this server only
            with urlopen(request, timeout=TIMEOUT_S) as response:
                answer: Wire = json.load(response)
        except HTTPError as error:
            raise _refusal(error.read(), error.code) from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise RefusedError(
                f"cannot reach a server at {self._url}: {getattr(error, 'reason', error)}"
            ) from error
        return answer


def _api_key() -> str:
    """From the environment alone: a flag would show in every list of processes. Raises RefusedError."""
    key = os.environ.get("LORIKEET_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise RefusedError("LORIKEET_API_KEY has characters that no key has; set it to the key alone")
    return key


def _refusal(body: bytes, status: int) -> ServerRefused:
    try:
        error = json.loads(body)["error"]
        return ServerRefused(str(error["message"]), str(error["code"]))
    except (ValueError, KeyError, TypeError):
        return ServerRefused(f"the server answered {status}")
