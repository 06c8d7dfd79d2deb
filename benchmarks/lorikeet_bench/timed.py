"""One batch that ran to its end, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Timed:
    """`ttft_s` is the time until every row has its first token, `tpot_s` the mean time between a
    row's tokens after that, both in seconds. `tokens[i]` are the ids of row i.
    """

    ttft_s: float
    tpot_s: float
    duration_s: float
    tokens: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls,
        first: Sequence[float],
        last: Sequence[float],
        duration: float,
        tokens: tuple[tuple[int, ...], ...],
    ) -> Timed:
        """From the moments of each row's first and last token, in seconds since the batch began."""
        gaps = [(end - start) / (len(row) - 1) for start, end, row in zip(first, last, tokens, strict=True)]
        return cls(max(first), fmean(gaps), duration, tokens)
