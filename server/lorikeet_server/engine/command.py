"""The messages other threads send to the engine thread."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Nobody names or leases this generation any more."""

    generation: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Abort what is left and end the thread."""


Command = Submit | Cancel | AdapterArrived | AdapterMissing | Retire | Stop
