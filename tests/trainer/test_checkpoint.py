"""Checkpoints on disk: what counts as one, which is taken, which are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorikeet_trainer.checkpoint import COMPLETE_FILE, Checkpoint, Checkpoints, refuse_changed
from lorikeet_trainer.errors import ResumeRefused

MADE_FROM = {"data": {"sha256": "aa"}, "recipe": {"rank": 4}}


def written(checkpoints: Checkpoints, step: int, loss: float | None = None) -> Checkpoint:
    """As the Trainer leaves it, its pickle and the tokenizer's copy too, then completed."""
    staging = checkpoints.staging(step)
    (staging / "ref").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "training_args.bin", "tokenizer.json"):
        (staging / name).write_text(f"{name} {step}")
    return checkpoints.complete(step, MADE_FROM, loss, finished=False)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path)
    made.prepare()
    return made


def test_one_is_complete_with_its_files_alone(checkpoints: Checkpoints) -> None:
    made = written(checkpoints, 4, 0.5)
    assert checkpoints.newest() == made
    names = {"adapter_model.safetensors", "optimizer.pt", COMPLETE_FILE}
    assert {path.name for path in made.folder.iterdir()} == names
    assert made.files.keys() == names - {COMPLETE_FILE}


@pytest.mark.parametrize("damage", ["half", "gone", "seal gone", "seal half"])
def test_a_newest_one_that_is_not_whole_is_passed_over(checkpoints: Checkpoints, damage: str) -> None:
    good, bad = written(checkpoints, 2), written(checkpoints, 4)
    file = bad.folder / (COMPLETE_FILE if "seal" in damage else "optimizer.pt")
    file.write_bytes(file.read_bytes()[:-3]) if "half" in damage else file.unlink()
    assert checkpoints.newest() == good


def test_what_a_kill_left_is_swept_up(checkpoints: Checkpoints) -> None:
    good = written(checkpoints, 2)
    staging = checkpoints.staging(4)
    staging.mkdir()
    (staging / "optimizer.pt").write_text("half")
    (checkpoints.root / "step-3").mkdir()
    checkpoints.prepare()
    assert list(checkpoints.root.iterdir()) == [good.folder]


def test_the_newest_three_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    losses = {2: 0.9, 4: 0.1, 6: 0.5, 8: 0.1, 10: 0.4, 12: 0.3}
    for step, loss in losses.items():
        written(checkpoints, step, loss)
        checkpoints.prune()
    assert {path.name for path in checkpoints.root.iterdir()} == {"step-4", "step-8", "step-10", "step-12"}
    best = checkpoints.best()
    assert best is not None
    assert best.step == 4


def test_without_validation_the_newest_is_the_best(checkpoints: Checkpoints) -> None:
    for step in (2, 4):
        written(checkpoints, step)
    assert checkpoints.best() == checkpoints.newest()


@pytest.mark.parametrize(
    ("now", "field"),
    [
        ({"data": {"sha256": "bb"}, "recipe": {"rank": 4}}, "data.sha256"),
        ({"data": {"sha256": "aa"}, "recipe": {"rank": 8}}, "recipe.rank"),
        ({"data": {"sha256": "aa"}}, "recipe"),
    ],
)
def test_what_changed_is_named(now: dict[str, object], field: str) -> None:
    refuse_changed(MADE_FROM, MADE_FROM)
    with pytest.raises(ResumeRefused, match=f"its {field} was") as caught:
        refuse_changed(MADE_FROM, now)
    assert caught.value.field == field
