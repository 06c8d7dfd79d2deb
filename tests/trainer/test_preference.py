"""Which answer is preferred, by numbers small enough to check by eye."""

from __future__ import annotations

import pytest

from lorikeet_trainer.preference import Weighed, score_preferences

BASE = [Weighed(-10, -5), Weighed(-4, -6), Weighed(-3, -3)]


def test_the_base_has_no_reward() -> None:
    scores = score_preferences("base", BASE, None)
    assert (scores.rows, scores.preferred) == (3, pytest.approx(1 / 3))
    assert (scores.reward_accuracy, scores.reward_margin) == (None, None)


def test_a_margin_can_grow_without_turning_and_turn_without_growing() -> None:
    # Margins were -5, +2, 0 and are -1, +1, +3: two grew, and two are above zero, not the same two.
    scores = score_preferences("new", [Weighed(-6, -5), Weighed(-4, -5), Weighed(-2, -5)], BASE)
    assert (scores.preferred, scores.reward_accuracy) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert scores.reward_margin == pytest.approx((4 - 1 + 3) / 3)


def test_an_adapter_that_changes_nothing_gains_nothing() -> None:
    assert score_preferences("same", BASE, BASE).reward_accuracy == 0.0


def test_nothing_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="nothing"):
        score_preferences("a", [], [])
