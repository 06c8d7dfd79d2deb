"""A worker killed at any moment goes on where it was and ends with the same adapter, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorikeet_adapters.quantization import Quantization
from lorikeet_trainer.messages import EXIT_STOPPED, Began, Phase, Saved, Stepped, Stopped
from lorikeet_trainer.recipe import Method, Recipe
from tests.trainer.conftest import ROWS
from tests.trainer.jobs import adapter_bytes, kill_often, make_job, messages, run_here, worker, write_rows

STEPS = 18  # five batches are a pass over the rows, so runs are resumed in the middle of one
PAIRS = [
    {"prompt": f"where is lamp {index}?", "chosen": " thank you", "rejected": " is broken"}
    for index in range(20)
]


def recipe(quantization: str, method: str = "sft") -> Recipe:
    return Recipe(
        method=Method(method),
        rank=4,
        learning_rate=2e-3,
        max_steps=STEPS,
        batch_size=4,
        checkpoint_steps=2,
        seed=5,
        quantization=Quantization(quantization),
    )


def compare(tmp_path: Path, base: Path, made: Recipe, kills: int) -> list[int]:
    """Returns the steps that the last worker did itself."""
    rows = write_rows(
        tmp_path / "rows.jsonl", PAIRS if made.method is Method.DPO else [*ROWS, *ROWS, *ROWS[:4]]
    )
    whole = make_job(tmp_path / "whole", base, rows, made)
    said = run_here(whole)
    broken = make_job(tmp_path / "broken", base, rows, made)
    again = kill_often(broken, kills, most_messages=3 * STEPS // 2, seed=kills)
    assert again[-1] == said[-1]
    assert adapter_bytes(broken) == adapter_bytes(whole)
    return [each.step for each in again if isinstance(each, Stepped)]


@pytest.mark.timeout(400)  # processes that import torch on a machine that may be busy
def test_a_kill_and_a_stop_leave_no_trace_on_nf4(tmp_path: Path, base_folder: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*ROWS, *ROWS, *ROWS[:4]])
    folder = make_job(tmp_path / "broken", base_folder, rows, recipe("nf4"))
    with worker(folder) as process:
        heard = messages(process.stdout)
        while not isinstance(next(heard), Saved):
            pass
        next(heard)  # somewhere behind the first checkpoint
        process.kill()
    with worker(folder) as process:
        heard = messages(process.stdout)
        first = next(each for each in heard if isinstance(each, Stepped))
        assert first.step == 3, "it went on rather than began anew"
        process.terminate()
        last = list(heard)[-1]
        assert isinstance(last, Stopped)
        assert process.wait() == EXIT_STOPPED
    assert (folder / "checkpoints" / f"step-{last.step}" / "complete.json").is_file()
    said = run_here(folder)
    whole = make_job(tmp_path / "whole", base_folder, rows, recipe("nf4"))
    assert run_here(whole)[-1] == said[-1]
    assert adapter_bytes(folder) == adapter_bytes(whole)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("quantization", "method"), [("fp32", "sft"), ("nf4", "sft"), ("fp32", "dpo"), ("nf4", "dpo")]
)
def test_ten_kills_leave_no_trace(tmp_path: Path, base_folder: Path, quantization: str, method: str) -> None:
    compare(tmp_path, base_folder, recipe(quantization, method), kills=10)


def test_a_finished_job_is_not_trained_again(tmp_path: Path, base_folder: Path) -> None:
    """As after a kill between the last step and the gate."""
    rows = write_rows(tmp_path / "rows.jsonl", [*ROWS, *ROWS])
    folder = make_job(tmp_path / "job", base_folder, rows, recipe("fp32"))
    first = run_here(folder)
    before = adapter_bytes(folder)
    again = run_here(folder)
    assert not any(isinstance(each, Stepped) for each in again)
    assert [each.phase for each in again if isinstance(each, Began)] == list(Phase)
    assert again[-1] == first[-1]
    assert adapter_bytes(folder) == before
