"""The life of one adapter generation, as a table. Everything that moves a state stands here."""

from __future__ import annotations

from enum import StrEnum


class AdapterState(StrEnum):
    REGISTERED = "registered"  # checked, on disk
    LOADING = "loading"  # a loader thread reads it
    HOST = "host"  # tensors in memory
    DEVICE = "device"  # rows beside the base
    FAILED = "failed"  # the last load failed; a request tries again after a while
    RETIRED = "retired"  # deleted or replaced; leases may still run


class AdapterEvent(StrEnum):
    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load_failed"
    INSERT = "insert"
    EVICT = "evict"
    DROP = "drop"
    RETIRE = "retire"


S, E = AdapterState, AdapterEvent
TRANSITIONS: dict[AdapterState, dict[AdapterEvent, AdapterState]] = {
    S.REGISTERED: {E.LOAD: S.LOADING, E.RETIRE: S.RETIRED},
    S.LOADING: {
        E.LOADED: S.HOST,
        E.LOAD_FAILED: S.FAILED,
        E.DROP: S.REGISTERED,  # whoever waited for it has gone
        E.RETIRE: S.RETIRED,
    },
    S.HOST: {E.INSERT: S.DEVICE, E.DROP: S.REGISTERED, E.RETIRE: S.RETIRED},
    S.DEVICE: {E.EVICT: S.HOST, E.RETIRE: S.RETIRED},
    S.FAILED: {E.LOAD: S.LOADING, E.RETIRE: S.RETIRED},
    S.RETIRED: {},
}
del S, E


class IllegalTransition(RuntimeError):
    """A bug of ours: an event came in a state that has no row for it."""


def advance(state: AdapterState, event: AdapterEvent) -> AdapterState:
    """The next state. Raises IllegalTransition and changes nothing when the table has no such row."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"an adapter that is {state} cannot {event}") from None
