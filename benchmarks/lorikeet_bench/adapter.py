"""The adapters a run measures: named folders, the demo's own, and random ones where those are too few."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.base_source import demo_base
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.source import CONFIG_FILE, WEIGHTS_FILE, open_folder
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import AdapterWeights, load_weights
from lorikeet_bench.plan import Plan, PlanRefused

B_SPREAD = 0.02  # enough to change tokens, too little to overflow


class Origin(StrEnum):
    GIVEN = "given"
    DEMO = "demo"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class BenchAdapter:
    """A PEFT folder and what our engine holds of it."""

    name: str
    folder: Path
    origin: Origin
    weights: AdapterWeights


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """Adapters that are measured against each other; `rank` is that of those made at random."""

    rank: int
    adapters: tuple[BenchAdapter, ...]


def collect(plan: Plan, base: BaseModel, scratch: Path) -> tuple[AdapterSet, ...]:
    """A set for each rank, or a single one where real adapters were named; each has `plan.distinct` or more.

    Random ones, which also fill up a set of too few real ones, are written below `scratch`.
    """
    folders = [(folder, Origin.GIVEN) for folder in plan.folders]
    if plan.model == "demo" and not folders:
        folders = [(folder, Origin.DEMO) for folder in _demo_folders()]
    return tuple(_set(plan, base, rank, folders, scratch / f"r{rank}") for rank in plan.random_ranks)


def _set(
    plan: Plan, base: BaseModel, rank: int, folders: list[tuple[Path, Origin]], scratch: Path
) -> AdapterSet:
    scratch.mkdir()
    named = list(folders)
    for index in range(len(folders), plan.distinct):
        named.append(
            (write_random(base, scratch / f"random-{index}", rank, plan.seed + index), Origin.RANDOM)
        )
    adapters = tuple(_read(folder, origin, base) for folder, origin in named)
    return AdapterSet(rank, adapters)


def origin_of(sets: Iterable[AdapterSet]) -> Origin:
    """One word for all of them: random as soon as one is."""
    origins = {adapter.origin for each in sets for adapter in each.adapters}
    return Origin.RANDOM if Origin.RANDOM in origins else origins.pop()


def read_random(base: BaseModel, scratch: Path, rank: int, seed: int) -> BenchAdapter:
    """One adapter made at random."""
    return _read(write_random(base, scratch / "random", rank, seed), Origin.RANDOM, base)


def fetch(base: BaseModel, folder: Path) -> AdapterWeights:
    """What an engine's loader does with a folder: read, check, hold."""
    with open_folder(folder) as files:
        spec = parse_spec(files.config)
    return load_weights(folder / WEIGHTS_FILE, spec, base.outline, base.compute_dtype)


def write_random(base: BaseModel, folder: Path, rank: int, seed: int) -> Path:
    """A PEFT folder with normal A and B on every linear module of `base` but the head."""
    head = base.model.get_output_embeddings()
    names = [name for name in base.linears if base.model.get_submodule(name) is not head]
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        shape = base.linears[name]
        a = torch.randn(rank, shape.in_features, generator=generator) * shape.in_features**-0.5
        b = torch.randn(shape.out_features, rank, generator=generator) * B_SPREAD
        tensors |= {f"base_model.model.{name}.lora_{half}.weight": t for half, t in (("A", a), ("B", b))}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": names,
        "fan_in_fan_out": base.model.config.model_type == "gpt2",  # its linear layers are transposed
    }
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS_FILE)
    return folder


def _demo_folders() -> list[Path]:
    found = sorted(demo_base().parent.glob(f"adapters/*/{CONFIG_FILE}"))
    return [config.parent for config in found]


def _read(folder: Path, origin: Origin, base: BaseModel) -> BenchAdapter:
    try:
        weights = fetch(base, folder)
    except AdapterRefused as error:
        raise PlanRefused(f"the adapter {str(folder)!r} cannot be measured: {error}") from error
    return BenchAdapter(folder.resolve().name, folder, origin, weights)
