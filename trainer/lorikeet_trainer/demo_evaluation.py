"""The demo's own proof: what its four adapters add to the base, and what a blend of two does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lorikeet_adapters.base_source import demo_base
from lorikeet_adapters.mix import BASE_MIX, Mix, Term
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.demo.tasks import TASKS, ChatRow, Task, rows, score
from lorikeet_trainer.evaluate import Judge, Question, alone
from lorikeet_trainer.loading import read_dataset
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.rules import HELD_OUT
from lorikeet_trainer.scores import share

DIAL = (0.0, 0.25, 0.5, 0.75, 1.0)
ROWS = 200


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Shares of held-out rows solved, by the task's own scorer."""

    task: Task
    base: float
    adapter: float


@dataclass(frozen=True, slots=True)
class DialPoint:
    """`margin`: mean log-probability a token of the formal reference less that of the friendly one."""

    formal: float
    friendly: float
    margin: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    rows: int
    tasks: tuple[TaskResult, ...]
    dial: tuple[DialPoint, ...]

    @property
    def is_monotone(self) -> bool:
        """Every turn towards formal makes the formal reply likelier against the friendly one."""
        return all(left.margin < right.margin for left, right in pairwise(self.dial))


def demo_adapters() -> dict[str, Path]:
    """The embedded adapters' folders by name."""
    return {task: demo_base().parent / "adapters" / task for task in TASKS}


def evaluate_demo(judge: Judge, renderer: Renderer, count: int = ROWS, seed: int = 0) -> DemoReport:
    """Judge all four tasks on the same held-out messages, then turn the dial."""
    data = {task: rows(task, "heldout", count, seed) for task in TASKS}
    read = {task: _dataset(task, data[task], renderer) for task in TASKS}
    return DemoReport(count, _tasks(judge, data, read), _dial(judge, read["formal"], read["friendly"]))


def _tasks(
    judge: Judge, data: dict[Task, list[ChatRow]], read: dict[Task, Dataset]
) -> tuple[TaskResult, ...]:
    longest = max(len(row.reference) for dataset in read.values() for row in dataset.rows)
    questions = [
        Question(row.prompt, mix)
        for task, dataset in read.items()
        for row in dataset.rows
        for mix in (BASE_MIX, alone(task))
    ]
    answers = judge.answers(questions, 2 * longest)

    def solved(task: Task, mix: Mix) -> float:
        pairs = zip(data[task], read[task].rows, strict=True)
        return share(score(task, each, answers[Question(row.prompt, mix)].text) for each, row in pairs)

    return tuple(TaskResult(task, solved(task, BASE_MIX), solved(task, alone(task))) for task in TASKS)


def _dial(judge: Judge, formal: Dataset, friendly: Dataset) -> tuple[DialPoint, ...]:
    points = []
    for weight in DIAL:
        mix = Mix.of([Term("formal", weight), Term("friendly", 1 - weight)])
        margin = _likelihood(judge, formal, mix) - _likelihood(judge, friendly, mix)
        points.append(DialPoint(weight, 1 - weight, margin))
    return tuple(points)


def _likelihood(judge: Judge, dataset: Dataset, mix: Mix) -> float:
    """Mean over the rows of the mean log-probability a token."""
    return _mean([_mean(judge.logprobs(row, mix)) for row in dataset.rows])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _dataset(task: Task, examples: list[ChatRow], renderer: Renderer) -> Dataset:
    data = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in examples).encode()
    return read_dataset(data, f"{task}.heldout.jsonl", renderer, HELD_OUT)
