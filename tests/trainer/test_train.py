"""A training run end to end on a tiny NF4 base, and the traps of the libraries below it."""

from __future__ import annotations

import csv
import hashlib
import json
import logging.handlers
import warnings
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors import safe_open
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging
from trl import SFTTrainer

import lorikeet_trainer.train as train_module
from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.checkpoint import checkpoint_digest
from lorikeet_adapters.precision import bfloat16_is_fast
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import load_weights
from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import DeviceRefused, LossNotFinite, NothingLearned, OutputRefused, RecipeRefused
from lorikeet_trainer.history import LossPoint
from lorikeet_trainer.provenance import DIGEST_KEY
from lorikeet_trainer.quiet import quiet_libraries
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import IGNORED
from lorikeet_trainer.train import Job, TrainedAdapter, train
from lorikeet_trainer.tuner import adapt, build_trainer
from tests.trainer.conftest import RECIPE, ROWS, Silence, Write, save_base

SHORT = replace(RECIPE, max_steps=2)


def job(base_folder: Path, data: Path, out: Path, recipe: Recipe = SHORT) -> Job:
    return Job(data, out, str(base_folder), recipe=recipe)


def base_of(base_folder: Path) -> BaseModel:
    return load_base(str(base_folder), RECIPE.quantization, for_training=True)


def trainer_on(base: BaseModel, trained: TrainedAdapter, scratch: Path) -> SFTTrainer:
    renderer = Renderer.load(base.source)
    with quiet_libraries():
        model = adapt(base, trained.plan)
        return build_trainer(model, trained.dataset, renderer.tokenizer, trained.plan, scratch)


def reference_losses(model: torch.nn.Module, trained: TrainedAdapter) -> list[float]:
    """The mean loss over a row's learned tokens, row by row without padding, by torch's own function."""
    losses: list[float] = []
    for row in trained.dataset.rows:
        logits = model(torch.tensor([row.input_ids])).logits[0, :-1].float()
        labels = torch.tensor(row.labels[1:])
        losses += torch.nn.functional.cross_entropy(logits, labels, reduction="none")[
            labels != IGNORED
        ].tolist()
    return losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_plain_peft_loads_the_folder_and_gives_the_trained_answers(
    trained: TrainedAdapter, base_folder: Path
) -> None:
    with torch.no_grad():
        base = base_of(base_folder)
        before = mean(reference_losses(base.model, trained))
        model = PeftModel.from_pretrained(base.model, trained.folder).eval()
        after = mean(reference_losses(model, trained))
    assert before > 5
    assert after < 0.2 * before
    # What PEFT computes from the files is what training ended with.
    assert after == pytest.approx(trained.history[-1].train_loss, rel=0.1)


def test_the_server_side_reads_the_folder(trained: TrainedAdapter, base_folder: Path) -> None:
    base = base_of(base_folder)
    spec = parse_spec((trained.folder / "adapter_config.json").read_bytes())
    weights = load_weights(
        trained.folder / "adapter_model.safetensors", spec, base.outline, base.compute_dtype
    )
    assert (spec.rank, spec.alpha, spec.base_name) == (8, 16.0, str(base_folder))
    assert weights.modules.keys() == base.linears.keys() - {"lm_head"}


def test_the_loss_is_over_the_answers_only(trained: TrainedAdapter, base_folder: Path) -> None:
    # At the first step the adapter still adds nothing and the batch is all rows: the base's own loss.
    with torch.no_grad():
        expected = mean(reference_losses(base_of(base_folder).model, trained))
    assert trained.history[0].train_loss == pytest.approx(expected, rel=0.01)


def test_an_fp32_base_is_trained_in_fp32(base_folder: Path, data: Path, tmp_path: Path) -> None:
    recipe = replace(SHORT, quantization=Quantization.FP32)
    made = train(job(base_folder, data, tmp_path / "adapter", recipe), Silence())
    with torch.no_grad():
        expected = mean(reference_losses(load_base(str(base_folder), "fp32").model, made))
    assert made.history[0].train_loss == pytest.approx(expected, rel=1e-6)


def test_the_adapter_is_fp32_while_it_learns(
    trained: TrainedAdapter, base_folder: Path, tmp_path: Path
) -> None:
    base = base_of(base_folder)
    trainer = trainer_on(base, trained, tmp_path)
    learning = {name: each.dtype for name, each in trainer.model.named_parameters() if each.requires_grad}
    assert set(learning.values()) == {torch.float32}
    assert all("lora_" in name for name in learning)
    with safe_open(trained.folder / "adapter_model.safetensors", framework="pt") as file:
        saved = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  (the file is no mapping)
    assert all(tensor.dtype is torch.float32 for tensor in saved)
    # Values that bf16 cannot hold: had they been rounded on the way, none would be left.
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in saved)


def test_no_layer_may_repack_itself_and_lose_its_gradient(
    monkeypatch: pytest.MonkeyPatch, base_folder: Path, data: Path, tmp_path: Path
) -> None:
    # As on a CPU with AVX512-BF16, where bitsandbytes packs a layer at its first forward in eval mode.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    packs = Linear4bit(64, 64).support_avx512bf16_for_cpu
    assert packs, "bitsandbytes decides by another name now"
    loaded: list[BaseModel] = []

    def remember(source: str, quantization: str, device: str, **more: Any) -> BaseModel:
        loaded.append(load_base(source, quantization, device, **more))
        return loaded[-1]

    monkeypatch.setattr(train_module, "load_base", remember)
    train(job(base_folder, data, tmp_path / "adapter"), Silence())
    layers = [module for module in loaded[0].model.modules() if isinstance(module, Linear4bit)]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_the_gradient_is_the_same_after_a_forward_in_eval_mode(
    trained: TrainedAdapter, base_folder: Path, tmp_path: Path
) -> None:
    model = trainer_on(base_of(base_folder), trained, tmp_path).model
    (name, first) = next((n, p) for n, p in model.named_parameters() if "layers.0" in n and "lora_B" in n)
    row = trained.dataset.rows[0]
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.train()(input_ids=ids, labels=labels).loss.backward()
        assert isinstance(first.grad, torch.Tensor), name
        return first.grad.clone()

    before = gradient()
    with torch.no_grad():
        model.eval()(ids)
    assert before.abs().sum() > 0
    assert torch.allclose(gradient(), before, rtol=1e-3, atol=1e-6)


def test_an_adapter_that_learned_nothing_fails_and_leaves_no_folder(
    base_folder: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(NothingLearned, match="every B matrix"):
        train(job(base_folder, data, tmp_path / "adapter", replace(SHORT, learning_rate=1e-60)), Silence())
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_stops_at_its_step(data: Path, tmp_path: Path) -> None:
    def poison(model: LlamaForCausalLM) -> None:
        with torch.no_grad():
            model.model.norm.weight[0] = torch.nan

    broken = save_base(tmp_path / "broken", poison)
    with pytest.raises(LossNotFinite, match="the loss is nan at step 1") as caught:
        train(job(broken, data, tmp_path / "out" / "adapter"), Silence())
    assert caught.value.step == 1
    assert list((tmp_path / "out").iterdir()) == []


class Interrupting(Silence):
    def step(self, point: LossPoint) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_run_leaves_what_was_there(
    force: bool, base_folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    if force:
        out.mkdir()
        (out / "old").write_text("kept")
    with pytest.raises(KeyboardInterrupt):
        train(replace(job(base_folder, data, out), force=force), Interrupting())
    assert [path.name for path in tmp_path.rglob("*")] == (["adapter", "old"] if force else [])


def test_a_taken_folder_is_refused_before_anything_is_loaded(data: Path, tmp_path: Path) -> None:
    taken = tmp_path / "adapter"
    taken.mkdir()
    with pytest.raises(OutputRefused, match="--force"):
        train(job(tmp_path / "no base at all", data, taken), Silence())


def test_a_device_that_is_not_there_is_refused(
    base_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceRefused, match="no usable CUDA device"):
        train(replace(job(base_folder, data, tmp_path / "adapter"), device=Device.CUDA), Silence())


def test_the_same_job_gives_the_same_bytes_and_another_seed_others(
    base_folder: Path, data: Path, tmp_path: Path
) -> None:
    def files(name: str, recipe: Recipe) -> dict[str, bytes]:
        made = train(job(base_folder, data, tmp_path / name, recipe), Silence())
        return {path.name: path.read_bytes() for path in sorted(made.folder.iterdir())}

    first = files("first", SHORT)
    assert files("second", SHORT) == first
    other = files("third", replace(SHORT, seed=4))
    assert other["adapter_model.safetensors"] != first["adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("target", "reason"), [("lm_head", "output head"), ("c_attn", "no linear module named c_attn; it has")]
)
def test_targets_that_cannot_be_adapted_are_refused(
    target: str, reason: str, base_folder: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeRefused, match=reason):
        train(
            job(base_folder, data, tmp_path / "adapter", replace(SHORT, target_modules=(target,))), Silence()
        )


def test_chosen_targets_and_scaling_stand_in_the_config(
    base_folder: Path, data: Path, tmp_path: Path
) -> None:
    recipe = replace(SHORT, target_modules=("v_proj", "q_proj"), rslora=True, alpha=2.5)
    made = train(job(base_folder, data, tmp_path / "adapter", recipe), Silence())
    config = json.loads((made.folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert (config["lora_alpha"], config["use_rslora"], config["r"]) == (2.5, True, 8)
    assert config["inference_mode"] is True


def test_the_config_lists_the_targets_in_order(trained: TrainedAdapter) -> None:
    targets = json.loads((trained.folder / "adapter_config.json").read_text())["target_modules"]
    assert targets == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_the_history_is_one_line_a_step(trained: TrainedAdapter) -> None:
    with (trained.folder / "loss.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == [
        "step",
        "train_loss",
        "train_accuracy",
        "learning_rate",
        "tokens",
        "valid_loss",
        "valid_accuracy",
    ]
    assert rows[1:] == [
        ["" if value is None else str(value) for value in astuple(point)] for point in trained.history
    ]
    assert [point.step for point in trained.history] == list(range(1, 61))
    assert trained.history[-1].tokens == 60 * trained.dataset.tokens
    assert trained.history[-1].train_accuracy > trained.history[0].train_accuracy


def test_provenance_says_what_it_was_made_from(
    trained: TrainedAdapter, base_folder: Path, data: Path
) -> None:
    text = (trained.folder / "training_provenance.json").read_bytes()
    record = json.loads(text)
    assert record["base"] == {
        "source": str(base_folder),
        "quantization": "nf4",
        "fingerprint": load_base(str(base_folder), "nf4").fingerprint,
        "architecture": "LlamaForCausalLM",
        "computed_in": "bfloat16" if bfloat16_is_fast(torch.device("cpu")) else "float32",
        "checkpoint_sha256": checkpoint_digest(str(base_folder)),
        "commit": None,
    }
    assert record["data"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (record["data"]["name"], record["data"]["rows"]) == ("rows.jsonl", len(ROWS))
    assert record["recipe"]["steps"] == 60
    assert "o_proj" in record["recipe"]["target_modules"]
    assert record["final_loss"] == mean([point.train_loss for point in trained.history[-6:]])
    assert record["versions"]["torch"] == torch.__version__
    with safe_open(trained.folder / "adapter_model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata[DIGEST_KEY] == hashlib.sha256(text).hexdigest()


def test_libraries_are_quiet_only_while_we_train(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def disagree(model: LlamaForCausalLM) -> None:
        model.config.eos_token_id = 2  # the trainer aligns it with the tokenizer's and says so

    base = save_base(tmp_path / "base", disagree)
    heard = logging.handlers.BufferingHandler(100)
    transformers_logging.add_handler(heard)
    transformers_logging.set_verbosity_info()
    try:
        capfd.readouterr()
        train(job(base, data, tmp_path / "adapter"), Silence())
        assert capfd.readouterr() == ("", "")
        assert [record.getMessage() for record in heard.buffer] == []
        assert transformers_logging.get_verbosity() == logging.INFO
        with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
            warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
    finally:
        transformers_logging.set_verbosity_warning()
        transformers_logging.remove_handler(heard)


@pytest.mark.parametrize("quantization", ["int8", "bf16", "fp32"])
def test_every_form_of_the_base_can_be_trained_on(
    quantization: str, base_folder: Path, write: Write, tmp_path: Path
) -> None:
    recipe = replace(SHORT, quantization=Quantization(quantization), max_steps=8)
    made = train(job(base_folder, write("rows.jsonl", ROWS), tmp_path / "adapter", recipe), Silence())
    assert made.history[-1].train_loss < made.history[0].train_loss
    record = json.loads((made.folder / "training_provenance.json").read_text())
    assert record["base"]["quantization"] == quantization
