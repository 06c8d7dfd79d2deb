"""Which class was taken for which, and what follows from the counts. No model in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Rates:
    """Of what was said to be a class how much is, how much of the class was found, and their harmonic mean.

    A share of nothing is 0.
    """

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class ClassRates:
    """`support` is how many rows are of this class."""

    label: str
    support: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class LabelScores:
    """`macro` is the mean over classes, each counting the same; `micro` is over rows together.

    `confusion[i][j]` counts the rows of `classes[i]` that were taken for `classes[j]`.
    """

    name: str
    rows: int
    accuracy: float
    macro: Rates
    micro: Rates
    classes: tuple[ClassRates, ...]
    confusion: tuple[tuple[int, ...], ...]


def score_labels(name: str, labels: Sequence[str], pairs: Iterable[tuple[str, str]]) -> LabelScores:
    """`pairs` are (what it is, what it was taken for), both among `labels`. Raises ValueError for no pairs."""
    counts = Counter(pairs)
    rows = counts.total()
    if not rows:
        raise ValueError("there is nothing to score")
    table = tuple(tuple(counts[actual, taken] for taken in labels) for actual in labels)
    classes = tuple(_class(label, place, table) for place, label in enumerate(labels))
    right = sum(counts[label, label] for label in labels)
    each = [entry.rates for entry in classes]
    macro = Rates(
        fmean(one.precision for one in each), fmean(one.recall for one in each), fmean(one.f1 for one in each)
    )
    # Every row is taken for exactly one class, so all false positives together are all false negatives.
    return LabelScores(name, rows, right / rows, macro, _rates(right, rows, rows), classes, table)


def _class(label: str, place: int, table: tuple[tuple[int, ...], ...]) -> ClassRates:
    support = sum(table[place])
    taken = sum(row[place] for row in table)
    return ClassRates(label, support, _rates(table[place][place], taken, support))


def _rates(right: int, taken: int, support: int) -> Rates:
    precision = right / taken if taken else 0.0
    recall = right / support if support else 0.0
    return Rates(precision, recall, 2 * right / (taken + support) if taken + support else 0.0)
