"""Rows to train on, to validate on and to test on, told apart by their own content.

A row's side follows from its hash alone: it stays where it is when rows are added, moved or written
with other blanks, and equal rows are on one side. A larger share takes rows from the training only.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.jsonl import Record, parse_jsonl


class Side(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the rows, each from 0 to 1; training has the rest, which is more than nothing."""

    validation: float = 0.1
    test: float = 0.0


def split(data: bytes, name: str, shares: Shares, seed: int = 0) -> dict[Side, bytes]:
    """The file's own lines on each side that has a share. Raises DatasetRefused for lines that are no rows."""
    findings = [each for each in parse_jsonl(data) if isinstance(each, RowFinding)]
    if findings:
        raise DatasetRefused(name, findings)
    wanted = {Side.TRAIN: 1.0, Side.VALIDATION: shares.validation, Side.TEST: shares.test}
    sides: dict[Side, list[bytes]] = {side: [] for side, share in wanted.items() if share > 0}
    for side, line in _placed(data, shares, seed):
        sides[side].append(line)
    return {side: b"".join(line + b"\n" for line in lines) for side, lines in sides.items()}


def side_of(row: dict[str, object], shares: Shares, seed: int = 0) -> Side:
    content = json.dumps([seed, row], sort_keys=True, separators=(",", ":"))
    place = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64
    if place < shares.validation:
        return Side.VALIDATION
    # From the other end, so that neither share moves the rows of the other.
    return Side.TEST if place >= 1 - shares.test else Side.TRAIN


def _placed(data: bytes, shares: Shares, seed: int) -> Iterator[tuple[Side, bytes]]:
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    for each in parse_jsonl(data):
        if isinstance(each, Record):
            yield side_of(each.value, shares, seed), lines[each.line - 1].rstrip(b"\r")
