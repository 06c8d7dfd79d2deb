"""What is said of a data file once it has been validated: its numbers, findings, cost and a sample."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from lorikeet_trainer.estimate import Estimate
from lorikeet_trainer.finding import RowFinding, counted
from lorikeet_trainer.sample import Sample
from lorikeet_trainer.saying import first_of_each
from lorikeet_trainer.validator import Validated

LEAST_BIN = 16
MOST_LABELS = 100


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose longest sequence has at most `tokens` tokens, and more than those of the bin before."""

    tokens: int
    rows: int


@dataclass(frozen=True, slots=True)
class Report:
    """Tokens are those of one pass. `usable` rows are made, `rows` stand in the file.

    `findings` are the first twenty of each code, `counts` says how many there are. `labels` are the
    hundred commonest.
    """

    name: str
    sha256: str
    format: str | None
    is_usable: bool
    rows: int
    usable: int
    tokens: int
    learned_tokens: int
    longest: int
    limit: int
    lengths: tuple[Bin, ...]
    labels: dict[str, int]
    counts: dict[str, int]
    findings: tuple[RowFinding, ...]
    estimate: Estimate | None = None
    sample: Sample | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def report_on(
    validated: Validated,
    more: Iterable[RowFinding] = (),
    estimate: Estimate | None = None,
    sample: Sample | None = None,
) -> Report:
    """`more` are findings of other checks of the same file."""
    made = validated.rows or validated.pairs
    lengths = [each.longest for each in made]
    findings = (*validated.findings, *more)
    return Report(
        name=validated.name,
        sha256=validated.sha256,
        format=validated.format.value if validated.format else None,
        is_usable=validated.is_usable,
        rows=validated.records,
        usable=len(made),
        tokens=sum(each.tokens for each in made),
        learned_tokens=sum(each.learned_tokens for each in made),
        longest=max(lengths, default=0),
        limit=validated.limit,
        lengths=histogram(lengths),
        labels=dict(_labels(validated).most_common(MOST_LABELS)),
        counts=dict(counted(findings)),
        findings=first_of_each(findings),
        estimate=estimate,
        sample=sample,
    )


def histogram(lengths: Sequence[int]) -> tuple[Bin, ...]:
    """Bins that double, from the first to the last that is not empty."""
    counts = Counter(max(LEAST_BIN, 1 << (length - 1).bit_length()) for length in lengths)
    if not counts:
        return ()
    size, bins = min(counts), []
    while size <= max(counts):
        bins.append(Bin(size, counts[size]))
        size *= 2
    return tuple(bins)


def _labels(validated: Validated) -> Counter[str]:
    counts = Counter(dict.fromkeys(validated.labels, 0))
    if validated.labels:
        counts.update(row.answer for row in validated.rows)
    return counts
