"""What travels between the door and a replica: a request as it came, and pieces of its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

from starlette.types import Message, Scope

from lorikeet_server.api.gate import METRICS, VLLM_METRICS
from lorikeet_server.api.lobby import GENERATING
from lorikeet_server.cluster.affinity import favourite

# Without an effect beyond the answer, so that asking another replica is right.
REPEATABLE = GENERATING | {"/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize"}
SCRAPED = frozenset({METRICS, VLLM_METRICS})
# What belongs to one data folder, and would be another one at each replica.
LOCAL_ONLY = ("/v1/files", "/v1/fine_tuning", "/v1/requests", "/v1/datasets")
KEPT = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `body` is in pieces: bytes, or what the carrier puts in their place where they are many.

    `adapter` says where it should go.
    """

    scope: dict[str, Any]
    body: tuple[Any, ...]
    adapter: str

    @classmethod
    def of(cls, scope: Scope, body: tuple[Any, ...], adapter: str) -> Self:
        """Only plain values: the rest of a scope belongs to the process that made it."""
        kept = {key: scope[key] for key in KEPT if key in scope}
        for key in ("client", "server"):
            kept[key] = tuple(scope[key]) if scope.get(key) else None
        return cls(kept, body, adapter)

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def is_repeatable(self) -> bool:
        return self.scope["method"] in ("GET", "HEAD") or self.path in REPEATABLE


@dataclass(frozen=True, slots=True)
class Part:
    """Some messages of an ASGI answer, in order; none in the first, which says that the request has come.

    `begun`: a token of it was generated, or it is complete.
    """

    replica: str
    messages: tuple[Message, ...]
    begun: bool


class ReplicaGone(Exception):
    """The replica ended, or cannot be reached, before its answer was complete."""


class Engines(Protocol):
    """All replicas, as the door reaches them."""

    def send(self, call: Call) -> AsyncIterator[Part]:
        """One of them answers. Raises ReplicaGone; closed early, the request is cancelled there."""

    async def put(self, piece: bytes) -> Any:
        """What stands for a piece of a body that is too large to be sent by value."""

    async def scrape(self, call: Call) -> dict[str, bytes]:
        """What each replica answers to a scrape, by its name; nothing where one of them hangs."""


def adapter_of(path: str, body: bytes, base_name: str) -> str:
    """The adapter a body asks for most; empty where any replica will do."""
    found = favourite(body) if path in GENERATING else ""
    return "" if found == base_name else found
