"""What the routes work with: one value, handed to `create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lorikeet_adapters.access import Access
from lorikeet_adapters.arrival import Intake
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.recipe import Recipe
from lorikeet_adapters.record import AdapterRecord
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.view import View
from lorikeet_server.config import HttpConfig
from lorikeet_server.engine.constraint import Constraint, Grammar, Refusal
from lorikeet_server.engine.request import Event, Request
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.keyring import Keyring
from lorikeet_server.metrics import Metrics
from lorikeet_server.request_log.log import RequestLog
from lorikeet_trainer.jobs.files import Files
from lorikeet_trainer.jobs.job import Job, Order
from lorikeet_trainer.jobs.ledger import Ledger


class TextCodec(Protocol):
    """The base's tokenizer as the routes see it."""

    @property
    def has_template(self) -> bool: ...
    @property
    def longest(self) -> float:
        """Characters at most that one token stands for; infinite where that has no bound."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str: ...
    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]: ...
    def decode(self, ids: Sequence[int], *, special: bool = False) -> str: ...
    def pieces(self, ids: Sequence[int]) -> list[str]: ...
    def token_bytes(self, token: int) -> bytes: ...
    def token_text(self, token: int) -> str: ...
    def is_special(self, token: int) -> bool: ...


class Events(Protocol):
    """The events of one request, a `Finished` last; `close` before that cancels the request."""

    def __aiter__(self) -> AsyncIterator[Event]: ...
    def close(self) -> None: ...


class Requests(Protocol):
    """Where requests go and events come from (`Bridge`)."""

    draining: bool

    @property
    def alive(self) -> bool: ...
    @property
    def hangs(self) -> bool: ...
    @property
    def is_full(self) -> bool:
        """Whether as many are open as may be; then `submit` would raise."""

    def adapters_in_use(self) -> frozenset[str]: ...
    def submit(self, requests: Sequence[Request]) -> Sequence[Events]: ...


class Composing(Protocol):
    """Makes new adapters out of registered ones (`Composer`)."""

    def make(
        self,
        view: View,
        name: str,
        terms: Sequence[Term],
        recipe: Recipe,
        *,
        replace: bool,
        expected: str | None,
        metadata: Mapping[str, object] | None,
        access: Access | None,
    ) -> tuple[AdapterRecord, bool]: ...


class Merging(Protocol):
    """Merges made for a request by recipe (`Merges`)."""

    def lease(
        self,
        view: View,
        recipe: Recipe,
        terms: Sequence[Term],
        count: int = 1,
        user: str | None = None,
        *,
        chat: bool = False,
    ) -> Mix: ...


class Compiling(Protocol):
    """Makes grammars of constraints (`Grammars`)."""

    def compile(self, constraint: Constraint) -> Future[Grammar | Refusal] | None: ...


class Training(Protocol):
    """Where fine-tuning jobs are ordered (`Office`)."""

    @property
    def files(self) -> Files: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def is_broken(self) -> bool: ...
    def check(self, file: str, owner: str | None, line: int | None = None) -> dict[str, Any]: ...
    def create(
        self, order: Order, owner: str, key: str | None = None, digest: str = ""
    ) -> tuple[Job, bool]: ...
    def cancel(self, job: str, owner: str | None) -> Job: ...
    def pause(self, job: str, owner: str | None) -> Job: ...
    def resume(self, job: str, owner: str | None) -> Job: ...
    def heard_by(self, job: str, listener: Callable[[], None]) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is resident, as GET /info says it."""

    name: str
    quantization: str
    device: str
    compute_dtype: str
    kernel: str  # that computes adapters' rows
    bytes_by_dtype: Mapping[str, int]
    kernel_bytes: int
    fingerprint: str
    max_model_len: int
    cache_tokens: int  # that all slots hold together, if they are of one length
    prefix_tokens: int  # of kept prompts
    vocabulary: int
    created: int
    self_test: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Services:
    requests: Requests
    registry: Registry
    text: TextCodec
    model: ModelCard
    metrics: Metrics
    stats: Callable[[], EngineStats]
    http: HttpConfig
    adapters_root: Path
    intake: Intake
    composer: Composing
    merges: Merging
    grammars: Compiling
    jobs: Training
    keys: Keyring | None = None
    request_log: RequestLog | None = None
