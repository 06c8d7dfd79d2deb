"""The life of one request, as a table. Everything that moves a state stands here."""

from __future__ import annotations

from enum import StrEnum

from lorikeet_server.engine.request import FinishReason


class RequestState(StrEnum):
    WAITING_ADAPTER = "waiting_adapter"  # an adapter of its mix is not yet on the host
    WAITING = "waiting"  # for a slot or for rank rows
    PREFILL = "prefill"  # holds a slot, prompt partly computed
    DECODE = "decode"  # holds a slot, one token a step
    STOPPED = "stopped"
    LENGTH = "length"
    ABORTED = "aborted"
    FAILED = "failed"


class RequestEvent(StrEnum):
    ADAPTERS_READY = "adapters_ready"
    ADAPTER_LOST = "adapter_lost"  # evicted for another request before this one was admitted
    ADMIT = "admit"
    PREEMPT = "preempt"  # its slot is taken back; it will compute its tokens' keys and values again
    PROMPT_DONE = "prompt_done"
    STOP = "stop"
    EXHAUST = "exhaust"
    ABORT = "abort"
    FAIL = "fail"


FINISH_REASONS = {
    RequestState.STOPPED: FinishReason.STOP,
    RequestState.LENGTH: FinishReason.LENGTH,
    RequestState.ABORTED: FinishReason.ABORTED,
    RequestState.FAILED: FinishReason.FAILED,
}
TERMINAL = frozenset(FINISH_REASONS)

S, E = RequestState, RequestEvent
_ANYWHERE = {E.ABORT: S.ABORTED, E.FAIL: S.FAILED}
TRANSITIONS: dict[RequestState, dict[RequestEvent, RequestState]] = {
    S.WAITING_ADAPTER: {E.ADAPTERS_READY: S.WAITING, **_ANYWHERE},
    S.WAITING: {E.ADMIT: S.PREFILL, E.ADAPTER_LOST: S.WAITING_ADAPTER, **_ANYWHERE},
    S.PREFILL: {E.PROMPT_DONE: S.DECODE, E.PREEMPT: S.WAITING, **_ANYWHERE},
    S.DECODE: {E.STOP: S.STOPPED, E.EXHAUST: S.LENGTH, E.PREEMPT: S.WAITING, **_ANYWHERE},
    **{state: {} for state in TERMINAL},
}
del S, E


class IllegalTransition(RuntimeError):
    """A bug of ours: an event came in a state that has no row for it."""


def advance(state: RequestState, event: RequestEvent) -> RequestState:
    """The next state. Raises IllegalTransition and changes nothing when the table has no such row."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"a request that is {state} cannot {event}") from None
