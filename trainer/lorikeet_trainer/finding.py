"""One remark about one row of a data file, in a form for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MOST_SHOWN = 100  # characters of a file's own words in a message


class Severity(StrEnum):
    ERROR = "error"  # the file is refused
    WARNING = "warning"  # worth a look


@dataclass(frozen=True, slots=True)
class RowFinding:
    """`line` counts from 1, 0 is the file as a whole; `field` is a path like `messages[1].role`."""

    line: int
    field: str
    code: str
    message: str
    fix: str
    severity: Severity = Severity.ERROR

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR

    @property
    def sentence(self) -> str:
        where = [f"line {self.line}"] if self.line else []
        where += [self.field] if self.field else []
        said = f"{self.message} ({self.fix})"
        return f"{', '.join(where)}: {said}" if where else said
