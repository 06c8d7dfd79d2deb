"""DPO on the demo base: a formal answer is to be preferred to a friendly one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorikeet_trainer.demo.tasks import rows
from lorikeet_trainer.judge import HeldBase
from lorikeet_trainer.messages import Done, Stepped
from lorikeet_trainer.recipe import Method, Recipe
from lorikeet_trainer.request import Request
from lorikeet_trainer.verdict import judge_file
from tests.trainer.jobs import make_job, run_here, write_rows

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


def pairs(split: str, count: int) -> list[object]:
    """Both tasks answer the same messages, each in its own style."""
    answered = zip(rows("formal", split, count, 0), rows("friendly", split, count, 0), strict=True)
    return [
        {
            "prompt": formal["messages"][:-1],
            "chosen": formal["messages"][-1:],
            "rejected": friendly["messages"][-1:],
        }
        for formal, friendly in answered
    ]


def test_the_formal_answer_gains_on_held_out_messages(tmp_path: Path) -> None:
    training = write_rows(tmp_path / "train.jsonl", pairs("train", 200))
    held = write_rows(tmp_path / "heldout.jsonl", pairs("heldout", 50))
    recipe = Recipe(method=Method.DPO, rank=8, learning_rate=2e-4, max_steps=50, batch_size=8)
    folder = make_job(tmp_path / "job", Path("demo"), training, recipe)
    replace(Request.read(folder), validation_file=held).write(folder)
    said = run_here(folder)
    shown = [(each.step, each.valid_loss, each.valid_accuracy) for each in said if isinstance(each, Stepped)]
    measured = [(step, loss, accuracy) for step, loss, accuracy in shown if loss is not None]
    print("\nstep, held-out loss, held-out reward accuracy:", *measured, sep="\n")
    assert measured[-1][1] < 0.5 < measured[0][1]
    assert measured[-1][2] is not None
    assert measured[-1][2] >= 0.95
    done = said[-1]
    assert isinstance(done, Done)
    assert not done.quarantined, done.reason
    as_served = judge_file(HeldBase("demo", "nf4"), held, {"formal-dpo": folder / done.folder}, None)
    before, after = as_served.preferences
    print(
        f"served: the base prefers {before.preferred:.0%} of {before.rows}, the adapter {after.preferred:.0%}"
    )
    assert after.preferred >= before.preferred + 0.3
    assert after.preferred >= 0.95
    assert after.reward_accuracy is not None
    assert after.reward_accuracy >= 0.95
