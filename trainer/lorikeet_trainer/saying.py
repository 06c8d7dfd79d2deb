"""Findings on standard error, the first twenty of each code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import typer

from lorikeet_trainer.finding import RowFinding, counted
from lorikeet_trainer.jsonl import unreadable

SHOWN_PER_CODE = 20


def show_findings(findings: Iterable[RowFinding]) -> None:
    found = tuple(findings)
    show_first(first_of_each(found), counted(found))


def show_first(findings: Sequence[RowFinding], counts: Mapping[str, int]) -> None:
    """`counts` says how many there are of each code, where not all are given."""
    for finding in findings:
        typer.echo(f"{finding.severity} [{finding.code}] {finding.sentence}", err=True)
    shown = counted(findings)
    for code, count in counts.items():
        if count > shown[code]:
            typer.echo(f"... and {count - shown[code]:,} more of [{code}]", err=True)


def first_of_each(findings: Iterable[RowFinding]) -> tuple[RowFinding, ...]:
    """The first twenty of each code, in their order."""
    seen: Counter[str] = Counter()
    first = []
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= SHOWN_PER_CODE:
            first.append(finding)
    return tuple(first)


def refuse_unreadable(data: Path) -> None:
    """Raises DatasetRefused: what is in a file is judged later, that there is none is known at once."""
    try:
        with data.open("rb"):
            pass
    except OSError as error:
        raise unreadable(data, error) from error
