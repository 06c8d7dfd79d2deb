"""One training run: a data file and a recipe become a PEFT folder.

The loop is TRL's on the base as it is served. Ours is what it must not get wrong: tokens and mask come
ready-made from `rendering`, and the adapter is fp32 while it learns.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.precision import bfloat16_is_fast, compute_in_float32
from lorikeet_trainer.course import Course, Marks
from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.device import Device, refuse_missing
from lorikeet_trainer.export import save_adapter
from lorikeet_trainer.history import LOSS_FILE, LossPoint, final_loss, write_history
from lorikeet_trainer.loading import load_dataset
from lorikeet_trainer.output import refuse_taken, whole_folder
from lorikeet_trainer.packing import may_pack
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
from lorikeet_trainer.tuner import adapt, build_trainer


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
    """Validate, train, save, in this process and in one go: `worker` is for runs that can be stopped.

    Nothing is held out. Raises RefusedError before training, TrainingFailed after; both leave no folder.
    The same job gives the same bytes on the same machine with the same number of threads.
    """
    refuse_missing(job.device)
    refuse_taken(job.out, force=job.force)
    with quiet_libraries(), whole_folder(job.out, force=job.force) as folder:
        renderer = Renderer.load(job.model)
        dataset = load_dataset(job.data, renderer, Rules(max_length=job.recipe.max_length))
        base = open_base(job.model, job.recipe, job.device)
        plan = resolve(job.recipe, base, dataset)
        tokenizer = tokenizer_facts(renderer)
        model, history = fit(base, dataset, renderer.tokenizer, plan, display)
        loss = final_loss(history)
        provenance = Provenance(
            base_facts(base), tokenizer, data_facts(dataset), plan, loss, library_versions()
        )
        save_adapter(folder, model, base.source, provenance)
        write_history(folder / LOSS_FILE, history)
    return TrainedAdapter(job.out, dataset, plan, tuple(history), loss)


def open_base(model: str, recipe: Recipe, device: Device, *, trust_remote_code: bool = False) -> BaseModel:
    """The base in the form that is served, computing in what this machine is fast at."""
    base = load_base(
        model, recipe.quantization, device, for_training=True, trust_remote_code=trust_remote_code
    )
    if not bfloat16_is_fast(base.device):
        compute_in_float32(base.model)
    return base


def resolve(recipe: Recipe, base: BaseModel, dataset: Dataset, *, checked: bool = False) -> Plan:
    """Raises RecipeRefused for what this base does not allow; targets that were `checked` are taken as they are."""
    targets = recipe.target_modules if checked else target_modules(base, recipe.target_modules)
    packing = may_pack(base.model.config, recipe, by_default=base.device.type == "cuda")
    return recipe.plan(dataset.size, base.context_length, targets, packing=packing)


def fit(
    base: BaseModel, dataset: Dataset, tokenizer: Tokenizer, plan: Plan, display: Display
) -> tuple[PeftModel, list[LossPoint]]:
    """Add an adapter to `base.model` and train it. Raises LossNotFinite. The base's weights do not change."""
    marks = Marks(said=display.step)
    with tempfile.TemporaryDirectory(prefix="lorikeet-train-") as scratch:
        model = adapt(base, plan)
        trainer = build_trainer(model, dataset, tokenizer, plan, Path(scratch))
        trainer.add_callback(Course(plan, marks))
        display.begin(plan.steps)
        try:
            trainer.train()
        finally:
            display.end()
    return model.eval(), marks.history
