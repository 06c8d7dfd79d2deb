"""One training run: a data file and a recipe become a PEFT folder.

The loop is TRL's SFTTrainer on the base as it is served. Ours is what it must not get wrong: tokens
and mask come ready-made from `rendering`, and the adapter is fp32 while it learns.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset as Table
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.precision import bfloat16_is_fast, compute_in_float32
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.device import Device, refuse_missing
from lorikeet_trainer.errors import LossNotFinite
from lorikeet_trainer.export import save_adapter
from lorikeet_trainer.history import LOSS_FILE, LossPoint, final_loss, write_history
from lorikeet_trainer.loading import load_dataset
from lorikeet_trainer.output import refuse_taken, whole_folder
from lorikeet_trainer.progress import Display
from lorikeet_trainer.provenance import (
    Provenance,
    base_facts,
    data_facts,
    library_versions,
    tokenizer_facts,
)
from lorikeet_trainer.quiet import quiet_libraries
from lorikeet_trainer.recipe import Plan, Recipe
from lorikeet_trainer.rendering import Renderer, Tokenizer
from lorikeet_trainer.rules import Rules
from lorikeet_trainer.targets import target_modules


@dataclass(frozen=True, slots=True)
class Job:
    """`out` must not exist unless `force`; `model` is demo, a model folder or a hub id."""

    data: Path
    out: Path
    model: str = "demo"
    device: Device = Device.CPU
    recipe: Recipe = field(default_factory=Recipe)
    force: bool = False


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """What a finished run left: the folder, the dataset it read and how the loss went."""

    folder: Path
    dataset: Dataset
    plan: Plan
    history: tuple[LossPoint, ...]
    final_loss: float


def train(job: Job, display: Display) -> TrainedAdapter:
    """Validate, train, save. Raises RefusedError before training, TrainingFailed after; both leave no folder.

    The same job gives the same bytes on the same machine with the same number of threads.
    """
    refuse_missing(job.device)
    refuse_taken(job.out, force=job.force)
    with quiet_libraries(), whole_folder(job.out, force=job.force) as folder:
        renderer = Renderer.load(job.model)
        dataset = load_dataset(job.data, renderer, Rules(max_length=job.recipe.max_length))
        base = load_base(job.model, job.recipe.quantization, job.device, for_training=True)
        targets = target_modules(base, job.recipe.target_modules)
        if not bfloat16_is_fast(base.device):
            compute_in_float32(base.model)
        plan = job.recipe.plan(len(dataset.rows), base.context_length, targets)
        tokenizer = tokenizer_facts(renderer)
        model, history = fit(base, dataset, renderer.tokenizer, plan, display)
        loss = final_loss(history)
        provenance = Provenance(
            base_facts(base), tokenizer, data_facts(dataset), plan, loss, library_versions()
        )
        save_adapter(folder, model, base.source, provenance)
        write_history(folder / LOSS_FILE, history)
    return TrainedAdapter(job.out, dataset, plan, tuple(history), loss)


def fit(
    base: BaseModel, dataset: Dataset, tokenizer: Tokenizer, plan: Plan, display: Display
) -> tuple[PeftModel, list[LossPoint]]:
    """Add an adapter to `base.model` and train it. Raises LossNotFinite. The base's weights do not change."""
    watch = _Watch(display)
    with tempfile.TemporaryDirectory(prefix="lorikeet-train-") as scratch:
        trainer = build_trainer(base, dataset, tokenizer, plan, Path(scratch))
        trainer.add_callback(watch)
        display.begin(plan.steps)
        try:
            trainer.train()
        finally:
            display.end()
    return trainer.model.eval(), watch.history


def build_trainer(
    base: BaseModel, dataset: Dataset, tokenizer: Tokenizer, plan: Plan, scratch: Path
) -> SFTTrainer:
    """TRL's trainer on our tokens and labels, its adapter in fp32."""
    on_cpu = base.device.type == "cpu"
    settings = SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=plan.batch_size,
        max_steps=plan.steps,
        learning_rate=plan.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=plan.warmup_steps,
        weight_decay=0.0,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        seed=plan.seed,
        data_seed=plan.seed,
        use_cpu=on_cpu,
        # The base has its compute dtype already; autocast on top of it would round the fp32 adapter.
        bf16=False,
        fp16=False,
        gradient_checkpointing=not on_cpu,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=not on_cpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=base.model,
        args=settings,
        train_dataset=_table(dataset),
        processing_class=tokenizer,
        peft_config=lora_config(plan),
    )
    trainer.remove_callback(PrinterCallback)
    # TRL has made them bf16 on a quantised base, where Adam's small updates round to nothing.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def lora_config(plan: Plan) -> LoraConfig:
    return LoraConfig(
        r=plan.rank,
        # Whole where it can be: some readers of PEFT folders take nothing else.
        lora_alpha=int(plan.alpha) if plan.alpha.is_integer() else plan.alpha,
        lora_dropout=0.0,
        bias="none",
        use_rslora=plan.rslora,
        target_modules=list(plan.target_modules),
        task_type="CAUSAL_LM",
    )


def _table(dataset: Dataset) -> Table:
    return Table.from_dict(
        {
            "input_ids": [list(row.input_ids) for row in dataset.rows],
            "labels": [list(row.labels) for row in dataset.rows],
        }
    )


class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Turns the trainer's logs into points, and ends the run at the first number that is none."""

    def __init__(self, display: Display) -> None:
        self.history: list[LossPoint] = []
        self._display = display

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **kwargs: object,
    ) -> None:
        if "loss" not in logs:
            return  # the summary after the last step
        for key, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
            if not math.isfinite(logs[key]):
                raise LossNotFinite(state.global_step, what, logs[key])
        point = LossPoint(
            step=state.global_step,
            train_loss=logs["loss"],
            train_accuracy=logs["mean_token_accuracy"],
            learning_rate=logs["learning_rate"],
            tokens=int(logs["num_tokens"]),
        )
        self.history.append(point)
        self._display.step(point)
