"""What a worker says of what went wrong, and that a folder has one worker at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
import torch

from lorikeet_adapters.errors import BaseModelRefused
from lorikeet_trainer import worker
from lorikeet_trainer.device import VISIBLE, Device, see_only
from lorikeet_trainer.errors import (
    DatasetRefused,
    DeviceRefused,
    LossNotFinite,
    RecipeRefused,
    ResumeRefused,
)
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.material import FileRefused
from lorikeet_trainer.messages import Failed
from lorikeet_trainer.request import Request
from tests.trainer.jobs import run_worker

FINDING = RowFinding(3, "prompt", "missing_key", "there is no prompt", "add it")
REFUSED = DatasetRefused("rows.jsonl", [FINDING])


@pytest.mark.parametrize(
    ("error", "code", "param"),
    [
        (FileRefused(REFUSED, "rows.jsonl", "training_file"), "invalid_training_file", "training_file"),
        (FileRefused(REFUSED, "rows.jsonl", "validation_file"), "invalid_validation_file", "validation_file"),
        (RecipeRefused(["rank 0"]), "invalid_recipe", ""),
        (ResumeRefused("recipe.rank", 4, 8), "cannot_resume", "recipe.rank"),
        (LossNotFinite(7, "loss", float("nan")), "loss_not_finite", ""),
        (BaseModelRefused("no base"), "base_model_refused", ""),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", ""),
        (OSError(28, "No space left on device"), "cannot_write", ""),
        (ZeroDivisionError("division by zero"), "internal_error", ""),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_each_failure_has_its_code(error: Exception, code: str, param: str) -> None:
    said = worker.failed(error)
    assert (said.code, said.param) == (code, param)
    assert str(error) in said.message


def test_a_worker_refuses_what_is_no_job_and_what_another_has(tmp_path: Path) -> None:
    code, said = run_worker(tmp_path)
    assert code == 1
    (last,) = said
    assert isinstance(last, Failed)
    assert last.code == "invalid_request"
    assert "request.json` cannot be read" in last.message
    with (tmp_path / worker.LOCK_FILE).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (last,) = run_worker(tmp_path)[1]
    assert isinstance(last, Failed)
    assert "another worker is at work" in last.message


@pytest.mark.parametrize(("seen", "index", "then"), [(None, 1, "1"), ("3,GPU-5", 1, "GPU-5"), ("2", 0, "2")])
def test_one_cuda_device_is_seen(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, index: int, then: str
) -> None:
    monkeypatch.setenv(VISIBLE, seen or "")
    if seen is None:
        monkeypatch.delenv(VISIBLE)
    see_only(index)
    assert os.environ[VISIBLE] == then
    with pytest.raises(DeviceRefused, match="no CUDA device 1"):
        see_only(1)


def test_a_worker_looks_for_its_device_among_those_it_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "0")
    Request("a", tmp_path / "rows", device=Device.CUDA, device_index=1).write(tmp_path)
    said = run_worker(tmp_path)[1][-1]
    assert isinstance(said, Failed)
    assert (said.code, "no CUDA device 1" in said.message) == ("no_such_device", True)
