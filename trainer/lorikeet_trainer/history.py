"""How the loss went: one point a step, kept in memory while training runs and written as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

LOSS_FILE = "loss.csv"


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One optimiser step. `train_loss` is the mean over the learned tokens of its batch, in nats.

    `train_accuracy` is the share of them that were the model's first choice; `tokens` counts all
    tokens read since the start. The names are those of OpenAI's result files.
    """

    step: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    tokens: int


def write_history(path: Path, points: Iterable[LossPoint]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(LossPoint)])
        writer.writerows(astuple(point) for point in points)


def final_loss(points: list[LossPoint]) -> float:
    """Mean over the last tenth of the steps: one batch alone says little."""
    tail = points[-max(1, len(points) // 10) :]
    return sum(point.train_loss for point in tail) / len(tail)
