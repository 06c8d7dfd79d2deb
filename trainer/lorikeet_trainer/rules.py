"""What a data file is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorikeet_trainer.example import DataFormat

if TYPE_CHECKING:
    from lorikeet_trainer.dataset import Dataset

LEAST_ROWS = 10  # OpenAI's limit too


@dataclass(frozen=True, slots=True)
class Rules:
    """`max_length` None means the base's context; no `labels` are those that the file has.

    Without `format` the first row decides. A row that is too long is cut after its last answer that
    fits whole, or left out when none does; without `may_cut` it is an error.
    """

    max_length: int | None = None
    least_rows: int = LEAST_ROWS
    labels: tuple[str, ...] = ()
    format: DataFormat | None = None
    may_cut: bool = True

    @classmethod
    def beside(cls, training: Dataset) -> Rules:
        """For the file that is held out of this training."""
        return cls(least_rows=1, labels=training.labels, format=training.format, may_cut=False)


TRAINING = Rules()
# What is judged is judged whole.
HELD_OUT = Rules(least_rows=1, may_cut=False)
