"""From answers to numbers, checked by hand."""

from __future__ import annotations

import math

import pytest

from lorikeet_trainer.scores import Judged, is_json, score


def judged(answer: str, reference: str, *logprobs: float, stopped: bool = True) -> Judged:
    return Judged(answer, reference, stopped, logprobs or (-1.0,))


def test_shares_are_counted_over_rows() -> None:
    scores = score(
        "a",
        [
            judged(" yes\n", "yes"),
            judged("Yes", "yes"),
            judged("yes and", "yes", stopped=False),
            judged("no", "no"),
        ],
    )
    assert (scores.name, scores.rows, scores.exact_match, scores.stop_rate) == ("a", 4, 0.5, 0.75)


def test_likelihood_is_a_mean_over_tokens_not_over_rows() -> None:
    scores = score("a", [judged("", "x", -4.0), judged("", "x", -1.0, -1.0, 0.0)])
    assert scores.loss == 1.5
    assert scores.perplexity == math.exp(1.5)


def test_json_is_judged_only_where_every_reference_is_json() -> None:
    wanted = [judged('{"a": 1}', '{"a": 2}'), judged("{'a': 1}", "[]"), judged("3", "{}")]
    assert score("a", wanted).json_validity == pytest.approx(1 / 3)
    assert score("a", [*wanted, judged("{}", "plain")]).json_validity is None


@pytest.mark.parametrize(
    ("text", "valid"),
    [("{}", True), (" [1, 2]\n", True), ("null", False), ("4", False), ("{", False), ("[" * 200_000, False)],
)
def test_json_means_an_object_or_an_array(text: str, valid: bool) -> None:
    assert is_json(text) is valid


def test_nothing_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="nothing"):
        score("a", [])
