"""Rows held out by what they say."""

from __future__ import annotations

from collections.abc import Sequence

from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.example import DataFormat
from lorikeet_trainer.holdout import MOST_HELD, split
from lorikeet_trainer.row import Pair, Row, Turn


def dataset(words: Sequence[int]) -> Dataset:
    rows = tuple(Row(line, (word, 1), (Turn(1, 2),), "") for line, word in enumerate(words, 1))
    return Dataset("rows", "", DataFormat.CHAT, rows)


def words(of: Dataset | None) -> list[int]:
    return [row.input_ids[0] for row in of.rows] if of else []


def test_the_same_rows_whatever_their_order() -> None:
    training, held = split(dataset(range(100)), 0.05)
    assert len(words(held)) == 5
    assert sorted(words(training) + words(held)) == list(range(100))
    _, again = split(dataset(range(99, -1, -1)), 0.05)
    assert set(words(again)) == set(words(held))


def test_equal_rows_are_on_one_side() -> None:
    training, held = split(dataset([*range(20), *range(20)]), 0.2)
    assert held is not None
    assert not set(words(training)) & set(words(held))
    assert len(words(held)) >= 8


def test_at_least_one_and_at_most_so_many() -> None:
    assert len(words(split(dataset(range(10)), 0.01)[1])) == 1
    assert len(words(split(dataset(range(1000)), 0.5)[1])) == MOST_HELD


def test_nothing_where_it_would_leave_nothing() -> None:
    assert split(dataset([7] * 12), 0.1)[1] is None
    assert split(dataset(range(50)), 0.0)[1] is None


def test_pairs_are_held_out_too() -> None:
    pairs = tuple(Pair(line, (line,), (1,), (2,)) for line in range(1, 21))
    training, held = split(Dataset("pairs", "", DataFormat.CHAT, pairs=pairs), 0.1)
    assert held is not None
    assert (len(training.pairs), len(held.pairs)) == (18, 2)
