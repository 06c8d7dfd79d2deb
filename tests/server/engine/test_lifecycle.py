"""The request table: every pair is walked, legal or not."""

from __future__ import annotations

import itertools

import pytest

from lorikeet_server.engine.lifecycle import (
    FINISH_REASONS,
    TERMINAL,
    TRANSITIONS,
    IllegalTransition,
    RequestEvent,
    RequestState,
    advance,
)
from lorikeet_server.engine.request import FinishReason


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RequestState, RequestEvent)))
def test_every_pair_moves_or_raises(state: RequestState, event: RequestEvent) -> None:
    if event in TRANSITIONS[state]:
        assert advance(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition, match=f"a request that is {state} cannot {event}"):
            advance(state, event)


def test_terminal_states_are_those_without_a_way_out_and_each_has_one_reason() -> None:
    assert {state for state, moves in TRANSITIONS.items() if not moves} == TERMINAL
    assert sorted(FINISH_REASONS.values()) == sorted(FinishReason)


def test_every_state_can_be_reached_and_every_live_one_can_be_aborted() -> None:
    reached = {RequestState.WAITING_ADAPTER}
    while new := {target for state in reached for target in TRANSITIONS[state].values()} - reached:
        reached |= new
    assert reached == set(RequestState)
    live = set(RequestState) - TERMINAL
    assert all(advance(state, RequestEvent.ABORT) is RequestState.ABORTED for state in live)
