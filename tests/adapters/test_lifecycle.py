"""The adapter's life: the table is walked whole, so that a row added or lost is noticed."""

from __future__ import annotations

import pytest

from lorikeet_adapters.lifecycle import TRANSITIONS, AdapterEvent, AdapterState, IllegalTransition, advance

S, E = AdapterState, AdapterEvent
LEGAL = {
    (S.REGISTERED, E.LOAD): S.LOADING,
    (S.LOADING, E.LOADED): S.HOST,
    (S.LOADING, E.LOAD_FAILED): S.FAILED,
    (S.LOADING, E.DROP): S.REGISTERED,
    (S.FAILED, E.LOAD): S.LOADING,
    (S.HOST, E.INSERT): S.DEVICE,
    (S.HOST, E.DROP): S.REGISTERED,
    (S.DEVICE, E.EVICT): S.HOST,
    (S.REGISTERED, E.RETIRE): S.RETIRED,
    (S.LOADING, E.RETIRE): S.RETIRED,
    (S.HOST, E.RETIRE): S.RETIRED,
    (S.DEVICE, E.RETIRE): S.RETIRED,
    (S.FAILED, E.RETIRE): S.RETIRED,
}


@pytest.mark.parametrize("event", list(E))
@pytest.mark.parametrize("state", list(S))
def test_every_pair_of_state_and_event(state: AdapterState, event: AdapterEvent) -> None:
    before = {each: dict(row) for each, row in TRANSITIONS.items()}
    if (state, event) in LEGAL:
        assert advance(state, event) is LEGAL[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"{state} cannot {event}"):
            advance(state, event)
    assert before == TRANSITIONS


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(S)


def test_every_state_is_reached_and_leads_to_retirement() -> None:
    for start, goals in ((S.REGISTERED, set(S)), *((each, {S.RETIRED}) for each in S)):
        seen, ahead = {start}, [start]
        while ahead:
            for following in TRANSITIONS[ahead.pop()].values():
                if following not in seen:
                    seen.add(following)
                    ahead.append(following)
        assert goals <= seen, start


def test_what_is_retired_stays_so() -> None:
    assert TRANSITIONS[S.RETIRED] == {}
