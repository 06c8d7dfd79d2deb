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
    tokens read since the start. The names are those of OpenAI's result files. In DPO both are of
    pairs: its loss, and the share in which the better answer gained on the worse. The validation
    figures are None in most steps.
    """

    step: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    tokens: int
    valid_loss: float | None = None
    valid_accuracy: float | None = None


def write_history(path: Path, points: Iterable[LossPoint]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(LossPoint)])
        writer.writerows(astuple(point) for point in points)


def read_history(path: Path) -> list[LossPoint]:
    """What `write_history` wrote; numbers come back as they were, to the last bit."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_point(row) for row in csv.DictReader(file)]


def final_loss(points: list[LossPoint]) -> float:
    """Mean over the last tenth of the steps: one batch alone says little."""
    tail = points[-max(1, len(points) // 10) :]
    return sum(point.train_loss for point in tail) / len(tail)


def _point(row: dict[str, str]) -> LossPoint:
    return LossPoint(
        step=int(row["step"]),
        train_loss=float(row["train_loss"]),
        train_accuracy=float(row["train_accuracy"]),
        learning_rate=float(row["learning_rate"]),
        tokens=int(row["tokens"]),
        valid_loss=float(row["valid_loss"]) if row["valid_loss"] else None,
        valid_accuracy=float(row["valid_accuracy"]) if row["valid_accuracy"] else None,
    )
