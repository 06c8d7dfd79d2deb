"""A data file that can be trained on."""

from __future__ import annotations

from dataclasses import dataclass

from lorikeet_trainer.example import DataFormat
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.row import Pair, Row


@dataclass(frozen=True, slots=True)
class Dataset:
    """What can be trained on: rows, or pairs in a preference format, never both and never neither.

    `name` is the file's name without its folder. `labels` are a classification's, in alphabetical
    order; other formats have none. A classification row's own label is its `answer`.
    """

    name: str
    sha256: str
    format: DataFormat
    rows: tuple[Row, ...] = ()
    pairs: tuple[Pair, ...] = ()
    labels: tuple[str, ...] = ()
    warnings: tuple[RowFinding, ...] = ()

    @property
    def size(self) -> int:
        """Rows or pairs."""
        return len(self.contents)

    @property
    def contents(self) -> tuple[Row, ...] | tuple[Pair, ...]:
        """The rows, or the pairs."""
        return self.rows or self.pairs

    @property
    def tokens(self) -> int:
        """In one pass: a pair's prompt counts twice."""
        return sum(each.tokens for each in self.contents)

    @property
    def learned_tokens(self) -> int:
        return sum(each.learned_tokens for each in self.contents)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(each.longest for each in self.contents)
