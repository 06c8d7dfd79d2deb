"""Training that goes on from an adapter: its shape is the parent's, whatever the defaults are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.origin import Parent, tensors_sha256
from lorikeet_adapters.source import WEIGHTS_FILE, open_folder
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import load_weights
from lorikeet_trainer.application import targets_of
from lorikeet_trainer.errors import RecipeRefused
from lorikeet_trainer.recipe import Recipe

DEFAULT = Recipe()


def parent_of(folder: Path, name: str = "") -> Parent:
    """`name` is the adapter's where the folder has another."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return Parent(name or folder.name, tensors_sha256(file))


def adopt(recipe: Recipe, folder: Path, base: BaseModel) -> Recipe:
    """The recipe with the parent's rank, alpha, targets and kind.

    Raises AdapterRefused for a parent that does not fit the base, RecipeRefused where the recipe asks
    for another shape than the parent's.
    """
    with open_folder(folder) as files:
        spec = parse_spec(files.config)
    weights = load_weights(folder / WEIGHTS_FILE, spec, base.outline, base.compute_dtype)
    shape: dict[str, Any] = {
        "rank": spec.rank,
        "alpha": spec.alpha,
        "rslora": spec.rslora,
        "dora": spec.dora,
        "target_modules": targets_of(weights.modules, base.model),
    }
    reasons = [
        f"{field} is {getattr(recipe, field)} but the parent `{folder.name}` has {value}; leave it out"
        for field, value in shape.items()
        if getattr(recipe, field) not in (getattr(DEFAULT, field), value)
    ]
    if reasons:
        raise RecipeRefused(reasons)
    return replace(recipe, **shape)
