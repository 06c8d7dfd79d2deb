"""One reason why an adapter is refused, in a form for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_LISTED = 1000  # a hostile file can have a hundred thousand


@dataclass(frozen=True, slots=True)
class Finding:
    """`field` is a config key or tensor name, `module` the base module meant (or empty)."""

    code: str
    message: str
    fix: str
    field: str = ""
    module: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message

    def to_wire(self) -> dict[str, str]:
        return {
            "field": self.field,
            "module": self.module,
            "code": self.code,
            "message": self.message,
            "fix": self.fix,
        }


def grouped(findings: Sequence[Finding]) -> list[tuple[Finding, int]]:
    """One finding of each kind, in order, and how many more there are like it.

    Alike are those of several modules that one fix mends: a wrong rank is wrong in all of them.
    """
    groups: dict[object, list[Finding]] = {}
    for at, each in enumerate(findings):
        groups.setdefault((each.code, each.fix) if each.module else at, []).append(each)
    return [(alike[0], len(alike) - 1) for alike in groups.values()]


def verdict(findings: Sequence[Finding], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """What a dry run answers."""
    listed = [finding.to_wire() for finding in findings[:MAX_LISTED]]
    if len(findings) > MAX_LISTED:
        listed.append(Finding("more", f"and {len(findings) - MAX_LISTED} more", "").to_wire())
    return {"loadable": not findings, "findings": listed, "warnings": list(warnings)}
