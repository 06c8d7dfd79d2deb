"""One thing we hold ourselves to, and what a run says about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lorikeet_bench.interval import Interval


class Standing(StrEnum):
    MET = "met"
    MISSED = "MISSED"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Target:
    """`wanted` is a bound in words; `low` and `high` are those of the value's 95 % interval.

    A target is met or missed when the whole interval is on one side of the bound. Where the bound
    lies within it the run was too short or too noisy to tell, and says so.
    """

    name: str
    value: float
    low: float
    high: float
    wanted: str
    standing: Standing

    @classmethod
    def at_least(cls, name: str, found: Interval, bound: float) -> Target:
        standing = _standing(found.low >= bound, found.high < bound)
        return cls(name, found.value, found.low, found.high, f">= {bound:g}", standing)

    @classmethod
    def at_most(cls, name: str, found: Interval, bound: float) -> Target:
        standing = _standing(found.high <= bound, found.low > bound)
        return cls(name, found.value, found.low, found.high, f"<= {bound:g}", standing)


def told(document: Mapping[str, Any]) -> Iterator[str]:
    """A line for each target of a document."""
    for each in document["targets"]:
        yield (
            f"{each['standing']}: {each['name']} {each['value']:.3f} "
            f"[{each['low']:.3f}, {each['high']:.3f}], wanted {each['wanted']}"
        )


def _standing(met: bool, missed: bool) -> Standing:
    if met:
        return Standing.MET
    return Standing.MISSED if missed else Standing.UNDECIDED
