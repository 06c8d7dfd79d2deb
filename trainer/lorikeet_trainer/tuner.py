"""TRL's trainers on our tokens: the adapter put on the base, the settings, and what must hold before a step.

TRL never sees a text: rows come as `input_ids` and `labels`, pairs as three lists of ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as Table
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PrinterCallback, set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from lorikeet_adapters.base_model import BaseModel
from lorikeet_trainer.application import DROPOUT, apply_adapter, whole
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.recipe import Initialisation, Method, Optimizer, Plan
from lorikeet_trainer.rendering import Tokenizer
from lorikeet_trainer.row import Pair, Row

Trainer = Any  # TRL's SFTTrainer or DPOTrainer, which are untyped here
REFERENCE = "ref"  # TRL's name for the copy of the adapter that DPO starts from
OPTIMIZERS = {
    Optimizer.ADAMW: "adamw_torch_fused",
    Optimizer.ADAMW_8BIT: "adamw_bnb_8bit",
    Optimizer.PAGED_ADAMW_8BIT: "paged_adamw_8bit",
}


def adapt(base: BaseModel, plan: Plan, parent: Path | None = None) -> PeftModel:
    """The base with a fresh adapter by the plan's seed, or with the parent's, ready to learn, in fp32."""
    if parent is not None:
        return apply_adapter(base.model, base.outline, parent, is_trainable=True)
    set_seed(plan.seed)
    return get_peft_model(base.model, lora_config(plan))


def lora_config(plan: Plan) -> LoraConfig:
    return LoraConfig(
        r=plan.rank,
        lora_alpha=whole(plan.alpha),
        lora_dropout=DROPOUT,
        bias="none",
        use_rslora=plan.rslora,
        use_dora=plan.dora,
        init_lora_weights=plan.initialisation is Initialisation.DEFAULT or plan.initialisation.value,
        target_modules=list(plan.target_modules),
        task_type="CAUSAL_LM",
    )


def build_trainer(
    model: PeftModel,
    dataset: Dataset,
    tokenizer: Tokenizer,
    plan: Plan,
    out: Path,
    *,
    checkpointing: bool | None = None,
    report_to: Sequence[str] = (),
) -> Trainer:
    """TRL's trainer of the plan's method; it writes its checkpoints into `out`. Its adapter is in fp32."""
    settings = _settings(plan, model.device, out, checkpointing, report_to)
    with unrounded(model):
        trainer = _dpo(model, dataset, tokenizer, plan, settings) if plan.method is Method.DPO else None
        trainer = trainer or _sft(model, dataset, tokenizer, plan, settings)
    trainer.remove_callback(PrinterCallback)
    return trainer


def table(contents: Sequence[Row | Pair]) -> Table:
    """The columns that the trainers' own collators pad."""
    rows = [each for each in contents if isinstance(each, Row)]
    if rows:
        return Table.from_dict(
            {
                "input_ids": [list(row.input_ids) for row in rows],
                "labels": [list(row.labels) for row in rows],
            }
        )
    pairs = [each for each in contents if isinstance(each, Pair)]
    return Table.from_dict(
        {
            "prompt_ids": [list(pair.prompt) for pair in pairs],
            "chosen_ids": [list(pair.chosen) for pair in pairs],
            "rejected_ids": [list(pair.rejected) for pair in pairs],
        }
    )


@contextmanager
def unrounded(model: PeftModel) -> Iterator[None]:
    """Gives what learns its fp32 values back after the block.

    TRL makes them bf16 on a quantised base, where Adam's small updates round to nothing; what was
    rounded on the way, a parent's values among it, widening alone would not bring back.
    """
    before = {name: each.detach().float().clone() for name, each in _learning(model)}
    yield
    for name, parameter in _learning(model):
        parameter.data = before[name]


def _learning(model: PeftModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, each) for name, each in model.named_parameters() if each.requires_grad)


def _sft(
    model: PeftModel, dataset: Dataset, tokenizer: Tokenizer, plan: Plan, settings: dict[str, Any]
) -> SFTTrainer:
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            **settings,
            dataset_kwargs={"skip_prepare_dataset": True},
            # The rows of a batch end to end, positions counting anew for each: the same steps, no padding.
            padding_free=plan.packing,
        ),
        train_dataset=table(dataset.rows),
        processing_class=tokenizer,
    )


class _Preferences(DPOTrainer):  # type: ignore[misc]  # trl is untyped here
    def _prepare_dataset(self, dataset: Table, *args: object, **kwargs: object) -> Table:
        """It would tokenise by itself; the pairs come as tokens, and there is no setting that says so."""
        return dataset


def _dpo(
    model: PeftModel, dataset: Dataset, tokenizer: Tokenizer, plan: Plan, settings: dict[str, Any]
) -> DPOTrainer:
    """The reference is the adapter as it is now: TRL keeps a frozen copy of it on the same base."""
    return _Preferences(
        model=model,
        args=DPOConfig(**settings, beta=plan.beta),
        train_dataset=table(dataset.pairs),
        processing_class=tokenizer,
    )


def _settings(
    plan: Plan, device: torch.device, out: Path, checkpointing: bool | None, report_to: Sequence[str]
) -> dict[str, Any]:
    on_cpu = device.type == "cpu"
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": plan.batch_size,
        "per_device_eval_batch_size": plan.batch_size,
        "max_steps": plan.steps,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": plan.warmup_steps,
        "optim": OPTIMIZERS[plan.optimizer],
        "weight_decay": 0.0,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "seed": plan.seed,
        "data_seed": plan.seed,
        "use_cpu": on_cpu,
        # The base has its compute dtype already; autocast on top of it would round the fp32 adapter.
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": not on_cpu if checkpointing is None else checkpointing,
        "max_length": None,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": not on_cpu,
        "save_strategy": "no",  # when to save is decided beside when to validate, see `course`
        "report_to": list(report_to) or "none",
        "disable_tqdm": True,
    }
