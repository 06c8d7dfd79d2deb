"""What a worker is given: the job's folder with all that the job is, complete before the job exists."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE
from lorikeet_trainer.jobs.job import Job, Method

REQUEST = "request.json"
TRAINING, VALIDATION, PARENT = "training.jsonl", "validation.jsonl", "parent"
METHODS = {Method.SUPERVISED: "sft", Method.DPO: "dpo"}
RATES = {Method.SUPERVISED: 2e-4, Method.DPO: 5e-6}  # what the multiplier multiplies


@dataclass(frozen=True, slots=True)
class Base:
    """The base exactly as it is served; the worker loads it the same way. `threads` 0 is torch's choice."""

    name: str
    source: str
    quantization: str
    device: str
    threads: int = 0


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
    with (folder / REQUEST).open("x", encoding="utf-8") as file:
        file.write(json.dumps(request_of(folder, job, base, material), indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def request_of(folder: Path, job: Job, base: Base, material: Material) -> Mapping[str, Any]:
    """The worker's own words for it; what is not said is the worker's choice."""
    inside = folder.resolve()
    return {
        "name": job.id,
        "training_file": str(inside / TRAINING),
        "model": base.source,
        "validation_file": None if material.validation is None else str(inside / VALIDATION),
        "parent": None if material.parent is None else str(inside / PARENT),
        "device": "cuda" if base.device.startswith("cuda") else base.device,
        "threads": base.threads,
        "recipe": recipe_of(job, base),
    }


def recipe_of(job: Job, base: Base) -> dict[str, Any]:
    order, asked = job.order, job.order.hyperparameters
    made: dict[str, Any] = {
        "method": METHODS[order.method],
        "seed": order.seed,
        "quantization": base.quantization,
        "epochs": asked.n_epochs,
        "batch_size": asked.batch_size,
        "beta": asked.beta,
    }
    if asked.learning_rate_multiplier is not None:
        made["learning_rate"] = RATES[order.method] * asked.learning_rate_multiplier
    return {key: value for key, value in {**made, **order.recipe}.items() if value is not None}


def _link(source: Path, target: Path) -> None:
    """Both are on one disk and never written again; where links are not known, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
