"""The demo, with keys, as a server process on the loopback: what clients that others wrote are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorikeet_server.keyring import add_key
from lorikeet_server.stock import DEMO_ADAPTERS
from tests.server.process import ServerProcess

SLASHED = "acme/formal"  # `formal` under a name that a path must carry percent-encoded
ROWS = 32  # fewer than the ranks of all four adapters together, and enough for any three
KEYS: dict[str, tuple[list[str], str | None]] = {
    "operator": (["generate", "admin", "metrics"], None),
    "tenant": (["generate"], "acme"),
    "scraper": (["metrics"], None),
}


@dataclass(frozen=True, slots=True)
class Loopback:
    url: str
    keys: dict[str, str]


@contextmanager
def loopback(folder: Path) -> Iterator[Loopback]:
    """`tenant` may have two requests open."""
    file = folder / "keys.toml"
    keys = {name: add_key(file, name, scopes, tenant) for name, (scopes, tenant) in KEYS.items()}
    words = {
        "--api-keys": str(file),
        "--quantization": "fp32",
        "--threads": "1",
        "--rank-rows": str(ROWS),
        "--max-tenant-requests": "2",
        "--adapters-root": str(DEMO_ADAPTERS),
        "--adapter": f"{SLASHED}={DEMO_ADAPTERS / 'formal'}",
    }
    with closing(ServerProcess(folder, *(word for pair in words.items() for word in pair))) as process:
        yield Loopback(process.url, keys)
