"""Counts of a table made by hand, and what every textbook makes of them."""

from __future__ import annotations

import pytest

from lorikeet_trainer.confusion import Rates, score_labels

# What it is, down; what it was taken for, across.
#          cat  dog  eel
# cat       5    3    0
# dog       2    3    1
# eel       0    2   11
TABLE = {
    ("cat", "cat"): 5,
    ("cat", "dog"): 3,
    ("dog", "cat"): 2,
    ("dog", "dog"): 3,
    ("dog", "eel"): 1,
    ("eel", "dog"): 2,
    ("eel", "eel"): 11,
}
PAIRS = [pair for pair, count in TABLE.items() for _ in range(count)]


def test_a_table_worked_out_by_hand() -> None:
    scores = score_labels("a", ["cat", "dog", "eel"], PAIRS)
    assert (scores.rows, scores.accuracy) == (27, pytest.approx(19 / 27))
    assert scores.confusion == ((5, 3, 0), (2, 3, 1), (0, 2, 11))
    cat, dog, eel = (each.rates for each in scores.classes)
    assert (cat.precision, cat.recall, cat.f1) == (5 / 7, 5 / 8, pytest.approx(2 / 3))
    assert (dog.precision, dog.recall, dog.f1) == (3 / 8, 3 / 6, pytest.approx(3 / 7))
    assert (eel.precision, eel.recall, eel.f1) == (11 / 12, 11 / 13, pytest.approx(0.88))
    assert scores.macro.precision == pytest.approx((5 / 7 + 3 / 8 + 11 / 12) / 3)
    assert scores.macro.recall == pytest.approx((5 / 8 + 1 / 2 + 11 / 13) / 3)
    assert scores.macro.f1 == pytest.approx((2 / 3 + 3 / 7 + 0.88) / 3)
    assert scores.micro == Rates(*[pytest.approx(19 / 27)] * 3)  # type: ignore[arg-type]
    assert [each.support for each in scores.classes] == [8, 6, 13]


def test_a_class_that_is_never_named_or_never_there_has_rates_of_zero() -> None:
    scores = score_labels("a", ["never named", "only named", "neither"], [("never named", "only named")])
    assert [each.rates for each in scores.classes] == [Rates(0.0, 0.0, 0.0)] * 3
    assert (scores.accuracy, scores.micro.f1) == (0.0, 0.0)


def test_nothing_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="nothing"):
        score_labels("a", ["x"], [])
