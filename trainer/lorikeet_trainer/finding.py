"""One remark about one row of a data file, in a form for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

MOST_SHOWN = 100  # characters of a file's own words in a message
MOST_LISTED = 100  # findings of one code
MOST_ERRORS = 10_000  # after so many nobody wants to know of more


class Severity(StrEnum):
    ERROR = "error"  # the file is refused
    WARNING = "warning"  # worth a look


@dataclass(frozen=True, slots=True)
class RowFinding:
    """`line` counts from 1, 0 is the file as a whole; `field` is a path like `messages[1].role`.

    `times` is how many it stands for: the last of a code can stand for all that are not listed.
    """

    line: int
    field: str
    code: str
    message: str
    fix: str
    severity: Severity = Severity.ERROR
    times: int = 1

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR

    @property
    def sentence(self) -> str:
        where = [f"line {self.line}"] if self.line else []
        where += [self.field] if self.field else []
        said = f"{self.message} ({self.fix})"
        return f"{', '.join(where)}: {said}" if where else said


class Findings:
    """What one file is found to have: everything is counted, the first hundred of each code are listed."""

    def __init__(self) -> None:
        self.errors = 0
        self._listed: list[RowFinding] = []
        self._counts: Counter[str] = Counter()
        self._rest: Counter[tuple[str, str, Severity]] = Counter()

    @property
    def is_full(self) -> bool:
        return self.errors >= MOST_ERRORS

    def add(self, found: Iterable[RowFinding]) -> None:
        for each in found:
            self.errors += each.is_error
            self._counts[each.code] += 1
            if self._counts[each.code] <= MOST_LISTED:
                self._listed.append(each)
                continue
            self._rest[each.code, each.fix, each.severity] += 1

    def listed(self) -> tuple[RowFinding, ...]:
        """In the order of the file, those about the whole of it first, and last what stands for the rest."""
        rest = (
            RowFinding(0, "", code, f"{times:,} more of these are not listed", fix, severity, times)
            for (code, fix, severity), times in self._rest.items()
        )
        return (*sorted(self._listed, key=lambda finding: finding.line), *rest)


def counted(findings: Iterable[RowFinding]) -> Counter[str]:
    """How many there are of each code."""
    counts: Counter[str] = Counter()
    for each in findings:
        counts[each.code] += each.times
    return counts
