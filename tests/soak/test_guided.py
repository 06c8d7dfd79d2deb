"""The long form: five hundred sampled answers of the demo's adapters and blends, every one of its form."""

from __future__ import annotations

import pytest

from lorikeet_server.engine.request import FinishReason
from tests.server.engine.forms import CHOICES, MIXES, SHAPES, TICKET, check_answer, open_demo

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
FORMS = [TICKET, SHAPES, TICKET, CHOICES]


def test_five_hundred_answers_have_their_form() -> None:
    with open_demo() as demo:
        forms = {f"{number}": FORMS[number % len(FORMS)] for number in range(500)}
        answers = demo.answers(
            demo.request(name, 1000 + number, MIXES[number % len(MIXES)], form)
            for number, (name, form) in enumerate(forms.items())
        )
    for name, form in forms.items():
        _, text, reason = answers[name]
        assert reason is FinishReason.STOP, text
        check_answer(text, form)
