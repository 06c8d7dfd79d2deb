"""Answers held to a form, in one batch with adapters and with answers that are free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lorikeet_adapters.mix import BASE_MIX
from lorikeet_server.engine.constraint import Stuck
from lorikeet_server.engine.guided import CompiledGrammar, MatcherGuide
from lorikeet_server.engine.request import FinishReason, Request, Token
from tests.server.engine.forms import CHOICES, MIXES, SHAPES, TICKET, Demo, check_answer, open_demo

FORMS = [TICKET, SHAPES, CHOICES]


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with open_demo() as made:
        yield made


def test_sampled_answers_of_every_adapter_have_their_form(demo: Demo) -> None:
    forms = {f"{number}": FORMS[number % len(FORMS)] for number in range(42)}
    requests = [
        demo.request(name, number, MIXES[number % len(MIXES)], form)
        for number, (name, form) in enumerate(forms.items())
    ]
    answers = demo.answers(requests)
    for name, form in forms.items():
        _, text, reason = answers[name]
        assert reason is FinishReason.STOP, text
        check_answer(text, form)
    assert len({text for _, text, _ in answers.values()}) > 25


def test_greedy_answers_have_their_form(demo: Demo) -> None:
    requests = [
        demo.request(f"{number}", number, mix, TICKET, temperature=0.0) for number, mix in enumerate(MIXES)
    ]
    for _, text, reason in demo.answers(requests).values():
        assert reason is FinishReason.STOP
        check_answer(text, TICKET)


def test_free_answers_are_the_same_beside_constrained_ones(demo: Demo) -> None:
    free = [
        demo.request(f"free{number}", number, mix, temperature=number % 2) for number, mix in enumerate(MIXES)
    ]
    held = [demo.request(f"held{number}", number, mix, TICKET) for number, mix in enumerate(MIXES)]
    alone = {name: demo.answers([each])[name] for each in free for name in [each.id]}
    mixed = demo.answers([each for pair in zip(free, held, strict=True) for each in pair])
    assert {name: mixed[name] for name in alone} == alone


def test_a_constrained_answer_is_the_same_whatever_is_beside_it(demo: Demo) -> None:
    held = [demo.request(f"{number}", number, mix, SHAPES) for number, mix in enumerate(MIXES)]
    together = demo.answers(held)
    assert together == {each.id: demo.answers([each])[each.id] for each in reversed(held)}


def test_the_likelihood_told_is_the_models_own(demo: Demo) -> None:
    request = demo.request("held", 0, BASE_MIX, CHOICES, temperature=0.0)
    demo.engine.submit(request)
    tokens = [event for event in run(demo, {request.id})["held"] if isinstance(event, Token)]
    expected = demo.engine.logprobs(request.prompt, [each.token_id for each in tokens])
    assert [each.logprob for each in tokens] == pytest.approx(expected, abs=1e-3)
    assert min(expected) < -1.0, "the mask must have mattered somewhere for this to show anything"


def test_max_tokens_cuts_an_answer_short(demo: Demo) -> None:
    request = demo.request("held", 0, BASE_MIX, TICKET)
    request = replace(request, sampling=replace(request.sampling, max_tokens=5))
    tokens, text, reason = demo.answers([request])["held"]
    assert (len(tokens), reason) == (5, FinishReason.LENGTH)
    assert text.startswith("{")


def test_requests_of_one_grammar_do_not_share_their_place_in_it(demo: Demo) -> None:
    first = demo.request("0", 0, BASE_MIX, TICKET)
    copies = [
        replace(first, id=f"{number}", sampling=replace(first.sampling, seed=number)) for number in range(4)
    ]
    answers = demo.answers(copies)
    for _, text, _ in answers.values():
        check_answer(text, TICKET)
    assert len({text for _, text, _ in answers.values()}) > 1


def test_a_preempted_answer_goes_on_where_it_was(demo: Demo) -> None:
    request = demo.request("held", 3, BASE_MIX, TICKET)
    undisturbed = demo.answers([request])["held"]
    demo.engine.submit(request)
    for step in range(12):
        demo.engine.step()
        if step in (4, 9):
            demo.engine._scheduler.preempt("held")
    events = run(demo, {"held"})["held"]
    assert events[-1].reason is FinishReason.STOP  # type: ignore[union-attr]
    assert events[-1].completion_tokens == len(undisturbed[0])  # type: ignore[union-attr]
    tail = [event.token_id for event in events if isinstance(event, Token)]
    assert tail == undisturbed[0][-len(tail) :]


class Breaking:
    """A grammar whose guide cannot go on after so many tokens."""

    def __init__(self, inner: CompiledGrammar, after: int, in_mask: bool) -> None:
        self._inner = inner
        self._after = after
        self._in_mask = in_mask

    def begin(self) -> Breaking:
        self._guide: MatcherGuide = self._inner.begin()
        return self

    def allowed(self) -> bytes:
        if self._in_mask and self._after <= 0:
            raise Stuck("the test says so")
        return self._guide.allowed()

    def accept(self, token: int) -> None:
        self._after -= 1
        if not self._in_mask and self._after <= 0:
            raise Stuck("the test says so")
        self._guide.accept(token)


@pytest.fixture(scope="module")
def others(demo: Demo) -> list[Request]:
    return [demo.request(f"{number}", number, mix, TICKET) for number, mix in enumerate(MIXES[:3])]


@pytest.fixture(scope="module")
def expected(demo: Demo, others: list[Request]) -> dict[str, Any]:
    """Their answers where nothing breaks."""
    return dict(demo.answers(others))


@pytest.mark.safety("security 11")
@pytest.mark.parametrize("in_mask", [True, False])
@pytest.mark.parametrize("after", [0, 3])
def test_a_guide_that_cannot_go_on_fails_its_request_alone(
    demo: Demo, others: list[Request], expected: dict[str, Any], after: int, in_mask: bool
) -> None:
    broken = demo.request("broken", 1, BASE_MIX, TICKET)
    assert isinstance(broken.grammar, CompiledGrammar)
    broken = replace(broken, grammar=Breaking(broken.grammar, after, in_mask))
    for each in [broken, *others]:
        demo.engine.submit(each)
    events = run(demo, {"broken", *expected})
    ended = events["broken"][-1]
    assert ended.failure is not None  # type: ignore[union-attr]
    assert ended.failure.code == "constraint_failed"  # type: ignore[union-attr]
    assert "the test says so" in ended.failure.message  # type: ignore[union-attr]
    for name, (tokens, _, _) in expected.items():
        assert [event.token_id for event in events[name] if isinstance(event, Token)] == tokens
    assert not len(demo.engine.runner.guides)


def test_a_cancelled_request_leaves_no_guide(demo: Demo) -> None:
    request: Request = demo.request("held", 0, BASE_MIX, TICKET)
    demo.engine.submit(request)
    for _ in range(3):
        demo.engine.step()
    assert len(demo.engine.runner.guides) == 1
    demo.engine.cancel("held")
    run(demo, {"held"})
    assert not len(demo.engine.runner.guides)


def run(demo: Demo, names: set[str]) -> dict[str, list]:  # type: ignore[type-arg]
    """Every event of these requests from now to their ends."""
    events: dict[str, list] = {name: [] for name in names}  # type: ignore[type-arg]
    waiting = set(names)
    while waiting or not demo.engine.idle:
        for event in demo.engine.step():
            events[event.request_id].append(event)
            if not isinstance(event, Token):
                waiting.discard(event.request_id)
    return events
