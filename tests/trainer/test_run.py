"""One job's phases on a tiny base, in this process: stopping, going on, refusing, early stopping, DPO."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.source import open_folder
from lorikeet_trainer.course import Validated
from lorikeet_trainer.errors import DatasetRefused, LossNotFinite, RecipeRefused, ResumeRefused
from lorikeet_trainer.history import final_loss, read_history
from lorikeet_trainer.messages import Began, Done, Message, Phase, Saved, Stepped, Warned
from lorikeet_trainer.recipe import Method, Optimizer, Recipe, Tracker
from lorikeet_trainer.request import Request
from lorikeet_trainer.run import Run
from lorikeet_trainer.stop import Signal, StopNow
from tests.trainer.conftest import ROWS, chat, save_base
from tests.trainer.jobs import adapter_bytes, make_job, run_here, write_rows

RECIPE = Recipe(
    rank=4, learning_rate=2e-3, max_steps=8, batch_size=4, checkpoint_steps=2, quantization=Quantization.FP32
)
MORE_ROWS = [*ROWS, *(chat(f"the red chair {index}", "praise") for index in range(8))]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", MORE_ROWS)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, base_folder: Path, rows: Path
) -> tuple[Path, list[Message]]:
    folder = make_job(tmp_path_factory.mktemp("jobs") / "whole", base_folder, rows, RECIPE)
    return folder, run_here(folder)


def test_the_phases_in_their_order_and_every_step(whole: tuple[Path, list[Message]]) -> None:
    folder, said = whole
    assert [each.phase for each in said if isinstance(each, Began)] == list(Phase)
    assert [each.step for each in said if isinstance(each, Stepped)] == list(range(1, 9))
    saved = [each for each in said if isinstance(each, Saved)]
    assert [each.step for each in saved] == [2, 4, 6, 8]
    assert all(each.valid_loss is not None for each in saved)
    done = said[-1]
    assert isinstance(done, Done)
    assert (done.steps, done.quarantined, done.reason) == (8, False, "")
    names = {"adapter_config.json", "adapter_model.safetensors", "training_provenance.json"}
    assert names | {"loss.csv", "loss.png"} == adapter_bytes(folder).keys()


def test_a_checkpoint_is_an_adapter_folder(whole: tuple[Path, list[Message]]) -> None:
    folder, _ = whole
    last = folder / "checkpoints" / "step-8"
    with open_folder(last) as files:
        assert json.loads(files.config)["r"] == 4
    assert (last / "loss.csv").read_bytes() == (folder / "adapter" / "loss.csv").read_bytes()
    ours, exported = (load_file(each / "adapter_model.safetensors") for each in (last, folder / "adapter"))
    assert ours.keys() == exported.keys()
    assert all(torch.equal(ours[name], exported[name]) for name in ours)


def test_a_run_that_is_told_to_stop_goes_on_to_the_same_adapter(
    whole: tuple[Path, list[Message]], tmp_path: Path, base_folder: Path, rows: Path
) -> None:
    folder = make_job(tmp_path / "job", base_folder, rows, RECIPE)
    stop, said = Signal(), list[Message]()

    def say(message: Message) -> None:
        said.append(message)
        if isinstance(message, Stepped) and message.step == 3:
            stop.ask()

    with pytest.raises(StopNow):
        Run(folder, Request.read(folder), say, stop).work()
    assert isinstance(said[-1], Saved)
    assert said[-1].step == 3
    again = run_here(folder)
    assert [each.step for each in again if isinstance(each, Stepped)] == [4, 5, 6, 7, 8]
    assert adapter_bytes(folder) == adapter_bytes(whole[0])
    assert [point.step for point in read_history(folder / "adapter" / "loss.csv")] == list(range(1, 9))


def stopped_at(folder: Path, step: int) -> None:
    stop = Signal()

    def say(message: Message) -> None:
        if isinstance(message, Stepped) and message.step == step:
            stop.ask()

    with pytest.raises(StopNow):
        Run(folder, Request.read(folder), say, stop).work()


def test_it_does_not_go_on_with_something_else(tmp_path: Path, base_folder: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", MORE_ROWS)
    recipe = replace(RECIPE, alpha=4.0)
    folder = make_job(tmp_path / "job", base_folder, rows, recipe)
    stopped_at(folder, 2)
    request = Request.read(folder)

    replace(request, recipe=replace(recipe, rank=8)).write(folder)
    with pytest.raises(ResumeRefused) as caught:
        run_here(folder)
    assert caught.value.field == "recipe.rank"

    request.write(folder)
    write_rows(rows, [*MORE_ROWS, chat("one more", "praise")])
    with pytest.raises(ResumeRefused) as caught:
        run_here(folder)
    assert caught.value.field == "data.rows"
    write_rows(rows, MORE_ROWS)

    def other(model: LlamaForCausalLM) -> None:
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 1.0

    save_base(tmp_path / "other", other)
    replace(request, model=str(tmp_path / "other")).write(folder)
    with pytest.raises(ResumeRefused) as caught:
        run_here(folder)
    assert caught.value.field.startswith("base.")


def test_a_validation_loss_that_is_no_number_ends_the_run_and_is_saved_nowhere(
    tmp_path: Path, base_folder: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorikeet_trainer.run.validate", lambda *_: Validated(math.nan, 0.5))
    recipe = replace(RECIPE, checkpoint_steps=1, max_steps=2)
    folder = make_job(tmp_path / "job", base_folder, rows, recipe)
    with pytest.raises(LossNotFinite, match="the validation loss is nan at step 1"):
        run_here(folder)
    assert not list((folder / "checkpoints").glob("step-*"))


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(
    tmp_path: Path, base_folder: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, any_learning_rate=True, warmup_fraction=0.9)
    folder = make_job(tmp_path / "job", base_folder, rows, replace(recipe, checkpoint_steps=1))
    with pytest.raises(LossNotFinite):
        run_here(folder)
    kept = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert kept
    assert all(
        tensor.isfinite().all()
        for name in kept
        for tensor in load_file(folder / "checkpoints" / name / "adapter_model.safetensors").values()
    )


def test_early_stopping_keeps_the_best(tmp_path: Path, base_folder: Path, rows: Path) -> None:
    # A rate that overshoots: the validation loss falls and then rises.
    recipe = replace(
        RECIPE, learning_rate=0.3, any_learning_rate=True, max_steps=40, checkpoint_steps=1, early_stopping=2
    )
    folder = make_job(tmp_path / "job", base_folder, rows, recipe, quality_gate=False)
    done = run_here(folder)[-1]
    assert isinstance(done, Done)
    assert done.steps < 40
    history = read_history(folder / "adapter" / "loss.csv")
    losses = [point.valid_loss for point in history]
    record = json.loads((folder / "adapter" / "training_provenance.json").read_text())
    assert record["metrics"]["valid_loss"] == min(each for each in losses if each is not None)
    best, last = done.steps - 2, done.steps
    assert record["metrics"]["step"] == best
    weights, of_best, of_last = (
        load_file(folder / each / "adapter_model.safetensors")
        for each in ("adapter", f"checkpoints/step-{best}", f"checkpoints/step-{last}")
    )
    assert all(torch.equal(weights[name], of_best[name]) for name in of_best)
    assert not all(torch.equal(of_last[name], of_best[name]) for name in of_best)
    # The loss of what was kept, not of the steps that were thrown away.
    assert done.final_loss == record["final_loss"] == final_loss(history[:best]) != final_loss(history)


def test_going_on_from_an_adapter_starts_where_it_is(
    whole: tuple[Path, list[Message]], tmp_path: Path, base_folder: Path, rows: Path
) -> None:
    parent = whole[0] / "adapter"
    recipe = replace(RECIPE, rank=16, quantization=Quantization.NF4, learning_rate=1e-12)
    folder = make_job(tmp_path / "job", base_folder, rows, recipe, parent=parent)
    run_here(folder)
    before, after = (load_file(each / "adapter_model.safetensors") for each in (parent, folder / "adapter"))
    # Its values to the last bits of fp32, which TRL rounds to bf16 on a quantised base.
    assert all(torch.allclose(before[name], after[name], rtol=1e-6, atol=1e-9) for name in before)
    record = json.loads((folder / "adapter" / "training_provenance.json").read_text())
    assert record["recipe"]["rank"] == 4
    assert record["parent"]["name"] == "adapter"
    with pytest.raises(RecipeRefused, match="rank is 8 but the parent `adapter` has 4"):
        run_here(make_job(tmp_path / "other", base_folder, rows, replace(recipe, rank=8), parent=parent))


@pytest.mark.parametrize("quantization", ["fp32", pytest.param("nf4", marks=pytest.mark.soak)])
def test_dpo_raises_the_held_out_reward_accuracy(
    tmp_path: Path, base_folder: Path, quantization: str
) -> None:
    pairs = [
        {"prompt": f"where is lamp {index}?", "chosen": " thank you", "rejected": " is broken"}
        for index in range(40)
    ]
    recipe = replace(
        RECIPE,
        method=Method.DPO,
        quantization=Quantization(quantization),
        max_steps=16,
        validation_fraction=0.2,
        checkpoint_steps=1,
    )
    rows = write_rows(tmp_path / "pairs.jsonl", pairs)
    folder = make_job(tmp_path / "job", base_folder, rows, recipe)
    said = run_here(folder)
    steps = [each for each in said if isinstance(each, Stepped)]
    assert steps[0].train_loss == pytest.approx(0.6931, abs=1e-3), "at the start both answers gained nothing"
    first, last = steps[0], steps[-1]
    assert first.valid_loss is not None
    assert last.valid_loss is not None
    assert last.valid_loss < 0.8 * first.valid_loss
    assert last.valid_accuracy == 1.0
    done = said[-1]
    assert isinstance(done, Done)
    assert not done.quarantined, done.reason


def test_rows_and_method_must_fit(tmp_path: Path, base_folder: Path, rows: Path) -> None:
    with pytest.raises(RecipeRefused, match="the method for it is sft"):
        run_here(make_job(tmp_path / "job", base_folder, rows, replace(RECIPE, method=Method.DPO)))


def test_a_refused_file_leaves_its_findings(tmp_path: Path, base_folder: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*MORE_ROWS, [1]])
    folder = make_job(tmp_path / "job", base_folder, rows, RECIPE)
    with pytest.raises(DatasetRefused):
        run_here(folder)
    (line,) = (folder / "findings.jsonl").read_text().splitlines()
    assert json.loads(line)["code"] == "not_an_object"


def test_dora_and_eight_bit_adam_train_on_a_cpu(tmp_path: Path, base_folder: Path, rows: Path) -> None:
    recipe = replace(RECIPE, dora=True, optimizer=Optimizer.ADAMW_8BIT, quantization=Quantization.NF4)
    folder = make_job(tmp_path / "job", base_folder, rows, recipe)
    done = run_here(folder)[-1]
    assert isinstance(done, Done)
    assert not done.quarantined, done.reason
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["use_dora"] is True


def test_what_is_not_there_is_said_before_anything_is_loaded(tmp_path: Path, rows: Path) -> None:
    recipe = replace(RECIPE, optimizer=Optimizer.PAGED_ADAMW_8BIT, report_to=(Tracker.MLFLOW,))
    folder = make_job(tmp_path / "job", tmp_path / "no base", rows, recipe)
    with pytest.raises(RecipeRefused, match=r"mlflow needs a package.*; the optimizer paged_adamw_8bit"):
        run_here(folder)


def test_nothing_held_out_is_said(tmp_path: Path, base_folder: Path, rows: Path) -> None:
    recipe = replace(RECIPE, validation_fraction=0.0, max_steps=2)
    said = run_here(make_job(tmp_path / "job", base_folder, rows, recipe, quality_gate=False))
    assert any("no row is held out" in each.message for each in said if isinstance(each, Warned))
    assert all(each.valid_loss is None for each in said if isinstance(each, Stepped))
