"""The messages other threads send to the engine thread."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from lorikeet_adapters.record import Memory
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.batch import Load
from lorikeet_server.engine.request import Failure, Request


@dataclass(frozen=True, slots=True)
class Submit:
    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class AdapterArrived:
    load: Load
    weights: AdapterWeights


@dataclass(frozen=True, slots=True)
class AdapterMissing:
    load: Load
    failure: Failure


@dataclass(frozen=True, slots=True)
class Retire:
    """Nobody can name or leases this generation any more; `answer` is told what came free."""

    generation: str
    answer: Future[Memory]


@dataclass(frozen=True, slots=True)
class Pin:
    """Bring this generation to the device and keep it there, or keep it no longer."""

    generation: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """Abort what is left and end the thread."""


Command = Submit | Cancel | AdapterArrived | AdapterMissing | Retire | Pin | Stop
