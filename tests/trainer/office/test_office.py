"""Jobs from the order to the adapter, by worker processes that stand in for training."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorikeet_adapters.errors import AdapterInUse, AdapterNotFound
from lorikeet_adapters.view import View
from lorikeet_trainer.device import Device
from lorikeet_trainer.jobs.briefing import Base, Material, Parent, brief, request_of
from lorikeet_trainer.jobs.errors import (
    FileInUse,
    FileMissing,
    FilesTooLarge,
    JobConflict,
    JobNotFound,
    JobRefused,
    TrainingUnavailable,
)
from lorikeet_trainer.jobs.job import FilePurpose, Job, Order
from lorikeet_trainer.jobs.lifecycle import JobState
from tests.trainer.office.house import BASE, PATIENCE, House, rows


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def test_a_job_goes_its_way(house: House) -> None:
    job = house.order(suffix="billing")
    assert job.state is JobState.VALIDATING
    done = house.until_over(job)
    assert (done.state, done.outcome.model) == (JobState.SUCCEEDED, f"ft:{BASE}:local:billing:{job.id[-8:]}")
    assert done.outcome.trained_tokens == 96
    record = house.registry.record(str(done.outcome.model))
    assert record.generation == done.outcome.generation
    assert record.metadata["fine_tuning_job"] == job.id
    words = house.messages(job)
    order = [
        "Created",
        "Files validated",
        "Fine-tuning job started",
        "Phase: training",
        "Step 1/12",
        "Checkpoint",
    ]
    places = [next(at for at, word in enumerate(words) if word.startswith(each)) for each in order]
    assert places == sorted(places)


def test_the_last_checkpoints_are_served_under_names_of_their_own(house: House) -> None:
    job = house.order()
    done = house.until_over(job)
    found = house.office.ledger.checkpoints(job.id)
    assert [each.step for each in found] == [12, 9, 6]  # three are kept
    assert [each.name for each in found] == [f"{done.outcome.model}:ckpt-step-{each}" for each in (12, 9, 6)]
    for each in found:
        house.registry.record(each.name)
    with pytest.raises(AdapterNotFound):
        house.registry.record(f"{done.outcome.model}:ckpt-step-3")


def test_a_checkpoint_can_be_asked_for_while_training_goes_on(house: House) -> None:
    job = house.order(rows(steps=2000))
    found = house.until(job, lambda _: bool(house.office.ledger.checkpoints(job.id)))
    assert found.state is JobState.RUNNING
    house.until(job, lambda _: house.office.ledger.checkpoints(job.id)[0].is_served)
    house.registry.record(house.office.ledger.checkpoints(job.id)[0].name)
    house.office.cancel(job.id, None)
    assert house.until_over(job).state is JobState.CANCELLED


def test_the_result_file_has_a_line_a_step(house: House) -> None:
    done = house.until_over(house.order())
    path = house.office.files.path(str(done.outcome.result_file))
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert list(lines[0]) == [
        "step",
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
    ]
    assert [int(each["step"]) for each in lines] == list(range(1, 13))
    assert [each["step"] for each in lines if each["valid_loss"]] == ["3", "6", "9", "12"]


def test_a_tenants_adapter_is_its_own(house: House) -> None:
    done = house.until_over(house.order(owner="acme"))
    name = str(done.outcome.model)
    assert name.split(":")[2] == "acme"
    assert View(house.registry, "acme").is_name(name)
    assert not View(house.registry, "beta").is_name(name)
    with pytest.raises(JobNotFound):
        house.office.cancel(done.id, "beta")


def test_a_quarantined_adapter_has_its_generation_for_a_name(house: House) -> None:
    done = house.until_over(house.order(rows("quarantined")))
    assert (done.state, done.outcome.model) == (JobState.FAILED, None)
    assert done.outcome.error is not None
    assert done.outcome.error.code == "gate_failed"
    record = house.registry.record(str(done.outcome.generation))
    assert record.name == record.generation
    assert record.metadata["quarantined"] == "worse than its parent"


def test_a_worker_that_fails_says_why(house: House) -> None:
    done = house.until_over(house.order(rows("failed")))
    assert done.outcome.error is not None
    assert (done.outcome.error.code, done.outcome.error.param) == ("invalid_training_file", "training_file")
    assert house.messages(done)[-1].startswith("The job failed: line 3")


def test_too_few_rows_fail_before_anything_is_loaded(house: House) -> None:
    done = house.until_over(house.order(rows(count=9)))
    assert done.outcome.error is not None
    assert "has 9 rows, the least is 10" in done.outcome.error.message
    assert done.started is None


@pytest.mark.safety("reliability 10")
def test_a_worker_that_dies_after_each_checkpoint_still_gets_there(house: House) -> None:
    """What counts is how often it was lost without getting any further."""
    done = house.until_over(house.order(rows("crash")))
    assert done.state is JobState.SUCCEEDED
    lost = [each for each in house.messages(done) if each.startswith("The training process was lost")]
    assert len(lost) == 4  # after the steps 3, 6, 9 and 12


def test_a_worker_that_dies_at_the_same_place_again_and_again_fails_the_job(house: House) -> None:
    done = house.until_over(house.order(rows("crash early")))
    assert done.outcome.error is not None
    assert done.outcome.error.code == "worker_lost"
    assert "lost 5 times" in done.outcome.error.message


@pytest.mark.safety("reliability 10")
def test_a_silent_worker_is_taken_for_dead(tmp_path: Path) -> None:
    house = House(tmp_path, silence=1.0)
    done = house.until_over(house.order(rows("hang")))
    assert done.outcome.error is not None
    assert done.outcome.error.code == "worker_lost"
    house.close()


@pytest.mark.safety("reliability 10")
def test_a_killed_worker_ends_with_the_same_bytes(house: House) -> None:
    whole = house.until_over(house.order(rows(steps=100)))
    job = house.order(rows(steps=100))
    lease = house.until_trained(job, 5).lease
    assert lease is not None
    os.kill(lease.pid, signal.SIGKILL)
    done = house.until_over(job)
    assert any("was lost" in each for each in house.messages(job))
    assert house.weights_of(str(done.outcome.model)) == house.weights_of(str(whole.outcome.model))


def test_pause_gives_the_device_to_the_next_and_resume_goes_on(house: House) -> None:
    first, second = house.order(rows(steps=60)), house.order()
    house.until_trained(first, 4)
    assert house.get(second).state is JobState.QUEUED
    assert house.office.pause(first.id, None).state is JobState.PAUSING
    paused = house.until(first, lambda each: each.state is JobState.PAUSED)
    assert house.until_over(second).state is JobState.SUCCEEDED
    assert house.get(first).state is JobState.PAUSED
    house.office.resume(first.id, None)
    done = house.until_over(first)
    assert done.state is JobState.SUCCEEDED
    steps = [
        each.data["step"] for each in reversed(house.office.ledger.events(first.id)) if each.type == "metrics"
    ]
    assert steps == list(range(1, 61)), "no step was taken twice"
    assert 4 <= paused.progress.step < 60


def test_resume_before_the_worker_has_stopped(house: House) -> None:
    job = house.order(rows(steps=40))
    house.until_trained(job, 3)
    house.office.pause(job.id, None)
    house.office.resume(job.id, None)
    assert house.until_over(job).state is JobState.SUCCEEDED


def test_cancel_keeps_the_last_checkpoint(house: House) -> None:
    job = house.order(rows(steps=2000))
    house.until_trained(job, 7)
    assert house.office.cancel(job.id, None).state is JobState.CANCELLING
    done = house.until_over(job)
    assert (done.state, done.outcome.model) == (JobState.CANCELLED, None)
    last = house.office.ledger.checkpoints(job.id)[0]
    assert last.step >= 7
    house.registry.record(last.name)
    with pytest.raises(JobConflict, match="cancelled cannot cancel"):
        house.office.cancel(job.id, None)


@pytest.mark.safety("reliability 10")
def test_a_server_that_leaves_has_its_jobs_go_on_at_the_next_start(tmp_path: Path) -> None:
    house = House(tmp_path)
    job = house.order(rows(steps=60))
    house.until_trained(job, 4)
    house.close()
    house = House(tmp_path)
    assert house.get(job).attempt == 0, "told to stop is not lost"
    done = house.until_over(job)
    assert done.state is JobState.SUCCEEDED
    assert sum(each.startswith("Step ") for each in house.messages(job)) == 60
    house.close()


def test_training_goes_on_from_an_adapter(house: House) -> None:
    parent = house.until_over(house.order())
    job = house.order(model=str(parent.outcome.model))
    assert job.order.parent == parent.outcome.generation
    folder = house.store.folder / "training" / "jobs" / job.id / "parent"
    weights = folder / "adapter_model.safetensors"
    assert weights.read_bytes() == house.weights_of(str(parent.outcome.model))
    house.until_over(job)
    house.office.supervisor.close(PATIENCE)  # once the worker is gone
    assert not folder.exists()


def test_the_same_key_is_the_same_job(house: House) -> None:
    file = house.upload(rows())
    order = Order(BASE, file.id, seed=1)
    first, is_new = house.office.create(order, "", "key", "digest")
    again, is_new_again = house.office.create(order, "", "key", "digest")
    assert (first.id, is_new, is_new_again) == (again.id, True, False)
    with pytest.raises(JobConflict, match="another request"):
        house.office.create(replace(order, seed=2), "", "key", "other")
    assert len(list((house.store.folder / "training" / "jobs").iterdir())) == 1


def test_what_cannot_be_ordered(house: House) -> None:
    def order(**more: object) -> Job:
        return house.order(**more)  # type: ignore[arg-type]

    with pytest.raises(FileMissing) as missing:
        order(training_file="file-none")
    assert missing.value.param == "training_file"
    with pytest.raises(AdapterNotFound):
        order(model="nobody")
    with pytest.raises(JobRefused, match="diverges"):
        order(recipe={"learning_rate": 0.5})
    done = house.until_over(house.order())
    with pytest.raises(JobRefused, match="purpose fine-tune"):
        order(training_file=str(done.outcome.result_file))
    assert not [each for each in house.office.ledger.jobs() if not each.is_over]


def test_a_server_without_training(tmp_path: Path) -> None:
    house = House(tmp_path, jobs=0)
    with pytest.raises(TrainingUnavailable, match="--training-jobs"):
        house.order()
    house.close()


def test_a_file_is_kept_while_a_job_needs_it(house: House) -> None:
    job = house.order(rows(steps=2000))
    with pytest.raises(FileInUse, match=job.id):
        house.office.files.delete(job.order.training_file, None)
    house.office.cancel(job.id, None)
    house.until_over(job)
    house.office.files.delete(job.order.training_file, None)
    with pytest.raises(FileMissing):
        house.office.files.get(job.order.training_file, None)


def test_files_have_bounds_and_owners(tmp_path: Path) -> None:
    house = House(tmp_path, files=100)
    file = house.upload(b"x" * 60, "acme")
    with pytest.raises(FilesTooLarge, match="--max-files-bytes"):
        house.upload(b"x" * 60, "acme")
    house.upload(b"x" * 60, "beta")
    assert house.office.files.files("acme") == [file]
    assert len(house.office.files.files(None)) == 2
    with pytest.raises(FileMissing):
        house.office.files.get(file.id, "beta")
    house.close()


def test_files_whose_time_is_over_take_no_room(tmp_path: Path) -> None:
    house = House(tmp_path, files=100)
    with house.office.files.intake.file() as arrival:
        arrival.write(b"x" * 60)
        old = house.office.files.put(arrival, "a", "acme", FilePurpose.FINE_TUNE, lifetime=-1.0)
    assert house.office.files.path(old.id).exists()
    house.upload(b"x" * 60, "acme")
    assert not house.office.files.path(old.id).exists()
    house.close()


def test_a_key_is_looked_up_before_the_files_are(house: House) -> None:
    file = house.upload(rows())
    order = Order(BASE, file.id, seed=1)
    made, _ = house.office.create(order, "", "key", "digest")
    house.until_over(made)
    house.office.files.delete(file.id, None)
    again, is_new = house.office.create(order, "", "key", "digest")
    assert (again.id, is_new) == (made.id, False)


def test_a_file_that_is_deleted_while_it_is_ordered_is_missing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = house.upload(rows())

    def deleted_first(*given: Any) -> None:
        house.office.files.delete(file.id, None)
        brief(*given)

    monkeypatch.setattr("lorikeet_trainer.jobs.office.brief", deleted_first)
    with pytest.raises(FileMissing) as missing:
        house.office.create(Order(BASE, file.id), "")
    assert missing.value.param == "training_file"
    assert not list((house.store.folder / "training" / "jobs").iterdir())


def test_a_parent_that_is_deleted_while_it_is_ordered_is_kept_until_it_is_linked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = str(house.until_over(house.order()).outcome.model)
    house.registry.delete(f"{parent}:ckpt-step-12", timeout=0)  # the same bytes

    def deleted_first(*given: Any) -> None:
        with pytest.raises(AdapterInUse):
            house.registry.delete(parent, timeout=0)
        brief(*given)

    monkeypatch.setattr("lorikeet_trainer.jobs.office.brief", deleted_first)
    assert house.until_over(house.order(model=parent)).state is JobState.SUCCEEDED


def test_a_job_is_told_the_device_and_the_form_of_the_base(tmp_path: Path) -> None:
    base = Base("tiny", "/models/tiny", "nf4", "cuda:1", 2, trust_remote_code=True)
    job = Job("ftjob-1", "", Order("ft:parent", "file-1"), 0.0)
    parent = Parent(b"{}", tmp_path / "weights")
    made = request_of(tmp_path, job, base, Material(tmp_path / "rows", parent=parent))
    assert (made.device, made.device_index, made.trust_remote_code) == (Device.CUDA, 1, True)
    assert (made.model, made.parent_name, made.threads) == ("/models/tiny", "ft:parent", 2)


def test_what_names_the_operators_folders_is_for_the_log_alone(house: House) -> None:
    for code in ("base_model_refused", "refused"):
        done = house.until_over(house.order(rows(f"failed {code}")))
        assert done.outcome.error is not None
        assert done.outcome.error.code == code
        told = [done.outcome.error.message, *house.messages(done)]
        assert not [each for each in told if "/secret" in each]
    record = house.registry.record(str(house.until_over(house.order()).outcome.model))
    assert record.provenance == {"base": {"source": BASE, "quantization": "fp32"}}


def test_what_a_kill_left_of_files_and_folders_is_swept(tmp_path: Path) -> None:
    house = House(tmp_path)
    file = house.upload(rows())
    house.close()
    training = tmp_path / "data" / "training"
    (training / "files" / "file-stray").write_text("x")
    (training / "incoming" / "half").write_text("x")
    (training / "jobs" / "ftjob-stray").mkdir()
    house = House(tmp_path)
    house.until_over(house.order())
    assert (training / "files" / file.id).exists()
    for stray in ("files/file-stray", "incoming/half", "jobs/ftjob-stray"):
        assert not (training / stray).exists()
    house.close()
