"""A recipe from a TOML or YAML file, from flags, or from both: a flag goes before the file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lorikeet_trainer.errors import RecipeRefused
from lorikeet_trainer.recipe import REFUSED_INITIALISATIONS, Recipe
from lorikeet_trainer.request import said

SUFFIXES = (".toml", ".yaml", ".yml")
UNKNOWN = "is no setting of a recipe; `lorikeet train --schema` lists them"
ACCUMULATION = (
    "is not built: a step takes batch_size rows at once. Lower batch_size or max_length, "
    "or turn gradient_checkpointing on, if they are too many for the memory"
)
UNBUILT = dict.fromkeys(("gradient_accumulation", "gradient_accumulation_steps"), ACCUMULATION)
_ADAPTER = TypeAdapter(Recipe)


def make_recipe(file: Path | None, flags: Mapping[str, Any]) -> Recipe:
    """`flags` that are None were not given. Raises RecipeRefused for whatever no recipe can be made of."""
    values = _read(file) if file is not None else {}
    values |= {key: value for key, value in flags.items() if value is not None}
    initialisation = str(values.get("initialisation"))
    if initialisation in REFUSED_INITIALISATIONS:
        reason = REFUSED_INITIALISATIONS[initialisation]
        raise RecipeRefused([f"initialisation {initialisation} {reason}; leave it out"])
    where = f"{file.name}: " if file is not None else ""
    unknown = sorted(map(str, values.keys() - {each.name for each in fields(Recipe)}))
    if unknown:
        raise RecipeRefused([f"{where}{each} {UNBUILT.get(each, UNKNOWN)}" for each in unknown])
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise RecipeRefused([f"{where}{said(error)}"]) from error


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file."""
    return _ADAPTER.json_schema()


def _read(file: Path) -> dict[str, Any]:
    if file.suffix not in SUFFIXES:
        raise RecipeRefused([f"`{file.name}` is no recipe: its name ends with none of {', '.join(SUFFIXES)}"])
    try:
        text = file.read_text(encoding="utf-8")
        values = tomllib.loads(text) if file.suffix == ".toml" else _yaml(text)
    except OSError as error:
        raise RecipeRefused([f"the recipe `{file}` cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise RecipeRefused([f"the recipe `{file.name}` is no {file.suffix[1:].upper()}: {error}"]) from error
    if not isinstance(values, dict):
        raise RecipeRefused([f"the recipe `{file.name}` is no table of settings; write lines like rank: 8"])
    return values


def _yaml(text: str) -> object:
    import yaml  # transformers brings it; only who has a YAML file waits for it

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
