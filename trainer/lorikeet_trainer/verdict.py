"""One evaluation from the command line: what was judged, the numbers, and both ways to show them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.table import Table

from lorikeet_trainer.confusion import LabelScores
from lorikeet_trainer.demo_evaluation import DemoReport, demo_adapters, evaluate_demo
from lorikeet_trainer.errors import EvaluationRefused
from lorikeet_trainer.evaluate import classify, evaluate, weigh
from lorikeet_trainer.judge import HeldBase, open_judge
from lorikeet_trainer.loading import load_dataset
from lorikeet_trainer.preference import PreferenceScores
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.rules import HELD_OUT
from lorikeet_trainer.scoreboard import (
    confusion_table,
    dial_table,
    labels_table,
    preferences_table,
    scores_table,
    tasks_table,
)
from lorikeet_trainer.scores import Scores


@dataclass(frozen=True, slots=True)
class Verdict:
    """Scores over one data file, named by its own name and digest.

    A file of pairs has `preferences` alone, one of labels has `labels` beside the `scores`.
    """

    base: HeldBase
    data: str
    data_sha256: str
    rows: int
    scores: tuple[Scores, ...] = ()
    labels: tuple[LabelScores, ...] = ()
    preferences: tuple[PreferenceScores, ...] = ()

    def tables(self) -> tuple[Table, ...]:
        title = f"{self.data}, {self.rows} {'pairs' if self.preferences else 'rows'}"
        if self.preferences:
            return (preferences_table(self.preferences, title),)
        tables = [scores_table(self.scores, title)]
        if self.labels:
            tables += [labels_table(self.labels), *map(confusion_table, self.labels)]
        return tuple(tables)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class DemoVerdict:
    base: HeldBase
    report: DemoReport

    def tables(self) -> tuple[Table, ...]:
        return tasks_table(self.report), dial_table(self.report)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "monotone": self.report.is_monotone})


def judge_file(base: HeldBase, data: Path, adapters: dict[str, Path], max_tokens: int | None) -> Verdict:
    """Base and adapters over a data file. Raises RefusedError."""
    dataset = load_dataset(data, Renderer.load(base.model), HELD_OUT)
    made = partial(Verdict, base, dataset.name, dataset.sha256, dataset.size)
    with open_judge(base.model, base.quantization, adapters, base.device) as judge:
        if dataset.pairs:
            return made(preferences=weigh(judge, dataset))
        labels = classify(judge, dataset) if dataset.labels else ()
        return made(scores=evaluate(judge, dataset, max_tokens), labels=labels)


def judge_demo(base: HeldBase) -> DemoVerdict:
    """The embedded adapters over their own held-out rows. Raises RefusedError."""
    folders = demo_adapters()
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    if missing:
        raise EvaluationRefused(f"this installation has no demo adapter {', '.join(missing)}")
    renderer = Renderer.load(base.model)
    with open_judge(base.model, base.quantization, folders, base.device) as judge:
        return DemoVerdict(base, evaluate_demo(judge, renderer))
