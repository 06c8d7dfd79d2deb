"""The embedded adapters: made from the embedded base, small, and as good as the demo claims."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.spec import parse_spec
from lorikeet_trainer.demo.adapters import LEAST_SOLVED, MOST_BY_BASE, RECIPES, shortfalls
from lorikeet_trainer.demo.tasks import TASKS
from lorikeet_trainer.demo_evaluation import (
    DIAL,
    DemoReport,
    DialPoint,
    TaskResult,
    demo_adapters,
    evaluate_demo,
)
from lorikeet_trainer.judge import Judge, open_judge
from lorikeet_trainer.provenance import DIGEST_KEY, tokenizer_facts
from lorikeet_trainer.rendering import Renderer

ROWS = 20  # of the two hundred that `lorikeet eval --demo` asks
MOST_BYTES = 4_000_000
GOOD = DemoReport(
    rows=200,
    tasks=tuple(TaskResult(task, base=0.1, adapter=0.95) for task in TASKS),
    dial=tuple(DialPoint(weight, 1 - weight, margin=weight) for weight in DIAL),
)


def provenance(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "training_provenance.json").read_text())
    return record


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with open_judge("demo", "nf4", demo_adapters()) as opened:
        yield opened


def test_they_solve_what_the_base_does_not_and_blend_along_the_dial(judge: Judge) -> None:
    report = evaluate_demo(judge, Renderer.load("demo"), ROWS)
    assert list(shortfalls(report)) == []
    assert [each.task for each in report.tasks] == list(TASKS)
    assert [point.formal for point in report.dial] == list(DIAL)
    assert report.dial[0].margin < -0.5 < 0.5 < report.dial[-1].margin


def test_each_was_trained_on_the_embedded_base_as_it_is() -> None:
    base = load_base("demo", "nf4")
    tokenizer = tokenizer_facts(Renderer.load("demo"))
    for task, folder in demo_adapters().items():
        record = provenance(folder)
        assert record["base"]["fingerprint"] == base.fingerprint, task
        assert record["base"]["source"] == "demo"
        assert record["tokenizer"]["template_sha256"] == tokenizer.template_sha256
        assert record["tokenizer"]["probe_sha256"] == tokenizer.probe_sha256


def test_the_provenance_is_the_one_that_the_weights_name() -> None:
    for folder in demo_adapters().values():
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            named = file.metadata()[DIGEST_KEY]
        assert named == hashlib.sha256((folder / "training_provenance.json").read_bytes()).hexdigest()


def test_ranks_are_those_of_the_recipes_and_all_of_it_is_small() -> None:
    folders = demo_adapters()
    for task in TASKS:
        assert parse_spec((folders[task] / "adapter_config.json").read_bytes()).rank == RECIPES[task].rank
    files = [path for folder in folders.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_a_report_that_falls_short_says_where() -> None:
    assert list(shortfalls(GOOD)) == []
    weak = replace(GOOD.tasks[2], adapter=LEAST_SOLVED - 0.01)
    clever = replace(GOOD.tasks[0], base=MOST_BY_BASE)
    stuck = (*GOOD.dial[:3], replace(GOOD.dial[3], margin=0.5), GOOD.dial[4])
    report = replace(GOOD, tasks=(clever, GOOD.tasks[1], weak, GOOD.tasks[3]), dial=stuck)
    reasons = list(shortfalls(report))
    assert [reason.split()[0] for reason in reasons] == ["the", "formal", "blending"]
    assert not report.is_monotone
