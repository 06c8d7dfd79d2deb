"""Which of two answers a model prefers, and how far an adapter moved that. No model in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lorikeet_trainer.scores import share


@dataclass(frozen=True, slots=True)
class Weighed:
    """Log-probabilities in nats of both answers of a pair, whole."""

    chosen: float
    rejected: float

    @property
    def margin(self) -> float:
        return self.chosen - self.rejected


@dataclass(frozen=True, slots=True)
class PreferenceScores:
    """`preferred` is the share of pairs whose better answer is the more probable one.

    `reward_accuracy` is DPO's: the share whose margin between the answers grew against the base's;
    `reward_margin` by how many nats on average. Of the base itself both are None.
    """

    name: str
    rows: int
    preferred: float
    reward_accuracy: float | None
    reward_margin: float | None


def score_preferences(
    name: str, weighed: Sequence[Weighed], base: Sequence[Weighed] | None
) -> PreferenceScores:
    """`base` weighed the same pairs. Raises ValueError for no pairs."""
    if not weighed:
        raise ValueError("there is nothing to score")
    preferred = share(each.margin > 0 for each in weighed)
    if base is None:
        return PreferenceScores(name, len(weighed), preferred, None, None)
    grown = [own.margin - its.margin for own, its in zip(weighed, base, strict=True)]
    return PreferenceScores(name, len(weighed), preferred, share(each > 0 for each in grown), fmean(grown))
