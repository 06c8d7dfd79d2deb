"""What a worker is given: the job's folder with all that the job is, complete before the job exists."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE
from lorikeet_trainer import recipe
from lorikeet_trainer.device import Device
from lorikeet_trainer.jobs.job import Job, Method, Order
from lorikeet_trainer.recipe import RATES, Recipe
from lorikeet_trainer.request import Request

TRAINING, VALIDATION, PARENT = "training.jsonl", "validation.jsonl", "parent"
METHODS = {Method.SUPERVISED: recipe.Method.SFT, Method.DPO: recipe.Method.DPO}


@dataclass(frozen=True, slots=True)
class Base:
    """The base exactly as it is served; the worker loads it the same way.

    `device` is torch's name of it, like `cpu` or `cuda:1`; `threads` 0 is torch's choice.
    """

    name: str
    source: str
    quantization: str
    device: str
    threads: int = 0
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Parent:
    """The adapter that training goes on from."""

    config: bytes
    weights: Path


@dataclass(frozen=True, slots=True)
class Material:
    training: Path
    validation: Path | None = None
    parent: Parent | None = None


def brief(folder: Path, job: Job, base: Base, material: Material) -> None:
    """Fill a job's folder; the request comes last, so a folder with one has everything."""
    folder.mkdir(parents=True)
    _link(material.training, folder / TRAINING)
    if material.validation is not None:
        _link(material.validation, folder / VALIDATION)
    if material.parent is not None:
        (folder / PARENT).mkdir()
        (folder / PARENT / CONFIG_FILE).write_bytes(material.parent.config)
        _link(material.parent.weights, folder / PARENT / WEIGHTS_FILE)
    request_of(folder.resolve(), job, base, material).write(folder)


def request_of(folder: Path, job: Job, base: Base, material: Material) -> Request:
    """Raises RecipeRefused. What is not said is the worker's choice."""
    return Request(
        name=job.id,
        training_file=folder / TRAINING,
        model=base.source,
        validation_file=None if material.validation is None else folder / VALIDATION,
        parent=None if material.parent is None else folder / PARENT,
        parent_name="" if material.parent is None else job.order.model,
        device=Device.CUDA if base.device.startswith("cuda") else Device.CPU,
        device_index=int(base.device.partition(":")[2] or 0),
        trust_remote_code=base.trust_remote_code,
        threads=base.threads,
        recipe=recipe_of(job.order, base),
    )


def recipe_of(order: Order, base: Base) -> Recipe:
    """Raises RecipeRefused."""
    method, asked = METHODS[order.method], order.hyperparameters
    made: dict[str, Any] = {"epochs": asked.n_epochs, "batch_size": asked.batch_size, "beta": asked.beta}
    if asked.learning_rate_multiplier is not None:
        made["learning_rate"] = RATES[method] * asked.learning_rate_multiplier
    given = {key: value for key, value in {**made, **order.recipe}.items() if value is not None}
    return Recipe(method=method, seed=order.seed, quantization=Quantization(base.quantization), **given)


def _link(source: Path, target: Path) -> None:
    """Both are on one disk and never written again; where links are not known, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
