"""A server with keys, and a client for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from lorikeet_server.api.app import create_app
from lorikeet_server.keyring import Keyring, add_key
from tests.server.world import LOCAL, Server, client_of, lifespan_of

KEYS: dict[str, tuple[list[str], str | None]] = {
    "operator": (["generate", "admin", "metrics"], None),
    "acme": (["generate", "admin"], "acme"),
    "beta": (["generate", "admin"], "beta"),
    "asking": (["generate"], "acme"),
    "scraping": (["metrics"], None),
}


@dataclass(slots=True)
class Keyed:
    """`client` sends no key; `by(name)` sends that one."""

    server: Server
    client: TestClient
    secrets: dict[str, str]
    clients: dict[str, TestClient] = field(default_factory=dict)

    def by(self, name: str) -> TestClient:
        if name not in self.clients:
            headers = {"authorization": f"Bearer {self.secrets[name]}"}
            self.clients[name] = TestClient(
                self.client.app, base_url=LOCAL, headers=headers, raise_server_exceptions=False
            )
            self.clients[name].portal = self.client.portal  # one loop: the engine's events come to it
        return self.clients[name]


@contextmanager
def keyed(server: Server, folder: Path, *, running: bool = True, **http: Any) -> Iterator[Keyed]:
    """The application of this server with the keys above, its engine running unless told otherwise."""
    file = folder / "keys.toml"
    secrets = {name: add_key(file, name, scopes, tenant) for name, (scopes, tenant) in KEYS.items()}
    services = replace(server.services, keys=Keyring(file), http=replace(server.services.http, **http))
    lifespan = lifespan_of(server.bridge, server.jobs, server.log) if running else None
    with client_of(create_app(services, lifespan)) as client:
        yield Keyed(server, client, secrets)
