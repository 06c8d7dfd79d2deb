"""A job's result file: one line a step, under OpenAI's names for the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from lorikeet_trainer.jobs.job import LoggedEvent

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
# Where each column stands in a metrics event.
SOURCES = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")


def results_csv(events: Iterable[LoggedEvent]) -> bytes:
    """Steps that were taken again after an interruption stand once, as they were taken last."""
    steps = {each.data["step"]: each.data for each in events if each.type == "metrics"}
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for _, data in sorted(steps.items()):
        lines.writerow(["" if data.get(key) is None else data[key] for key in SOURCES])
    return text.getvalue().encode()
