"""How much the KV cache may hold, in cells: one cell is one token's keys and values in every layer."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_COLUMNS = 128
SLACK = 8  # one column in so many is spare, so that rolling the cache left is rare


def columns_for(length: int) -> int:
    """Columns that a row of so many tokens needs beside what it owns itself."""
    return length + max(FIRST_COLUMNS, length // SLACK)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The bounds that scheduler and cache share: the one plans within them, the other allocates within them.

    All rows have the same columns, so what counts is rows times the longest row. `prompt_cells` are
    for prompts under way, which hold keys and values of their own until they take a slot.
    """

    slots: int
    longest: int  # tokens of one sequence
    cells: int
    prompt_cells: int

    @property
    def most_columns(self) -> int:
        return columns_for(self.longest)

    def fits(self, rows: int, longest: int) -> bool:
        """Whether so many rows, the longest of `longest` tokens, can be held at once."""
        return rows * columns_for(min(longest, self.longest)) <= self.cells
