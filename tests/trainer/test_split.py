"""A row's side follows from its content, whatever else the file holds."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.split import Shares, Side, side_of, split

ROWS = [{"prompt": f"lamp {number}", "completion": "red"} for number in range(1000)]
SHARES = Shares(validation=0.2, test=0.1)


def test_a_row_keeps_its_side_wherever_it_stands_and_however_it_is_written() -> None:
    sides = split("\n".join(map(json.dumps, ROWS)).encode(), "data.jsonl", SHARES)
    mixed = random.Random(0).sample(ROWS, 500)
    rewritten = [
        json.dumps(dict(reversed(row.items())), indent=None, separators=(" ,", " : ")) for row in mixed
    ]
    again = split("\r\n\n".join(rewritten).encode(), "data.jsonl", SHARES)
    for side in Side:
        kept = {line["prompt"] for line in map(json.loads, again[side].splitlines())}
        assert kept <= {line["prompt"] for line in map(json.loads, sides[side].splitlines())}
    assert sum(lines.count(b"\n") for lines in again.values()) == 500


def test_the_lines_are_the_files_own() -> None:
    data = b'\xef\xbb\xbf{"text":  "a"}\r\n\n{"text": "\xc3\xa9"}'
    lines = b"".join(split(data, "data.jsonl", Shares(0.5)).values()).splitlines()
    assert sorted(lines) == sorted([b'{"text":  "a"}', b'{"text": "\xc3\xa9"}'])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_shares_are_kept_and_another_seed_is_another_split(seed: int) -> None:
    sides = [side_of(row, SHARES, seed) for row in ROWS]
    assert 150 < sides.count(Side.VALIDATION) < 250
    assert 60 < sides.count(Side.TEST) < 140
    assert sides != [side_of(row, SHARES, seed + 1) for row in ROWS]


@given(st.dictionaries(st.text(), st.text()), st.floats(0, 0.4), st.floats(0, 0.1))
def test_a_larger_share_takes_from_the_training_only(
    row: dict[str, object], share: float, more: float
) -> None:
    before, after = side_of(row, Shares(share, share)), side_of(row, Shares(share + more, share + more))
    assert after is before or before is Side.TRAIN


def test_a_line_that_is_no_row_stops_the_split() -> None:
    with pytest.raises(DatasetRefused, match="line 2"):
        split(b'{"text": "a"}\n{', "data.jsonl", SHARES)
