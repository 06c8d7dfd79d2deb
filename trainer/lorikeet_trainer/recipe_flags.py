"""One flag for each field of a recipe, made from the fields. A flag that is not given is None."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer

from lorikeet_trainer.recipe import Recipe

# A field that is missing here has no flag, and a test says so.
HELP = {
    "method": "What the rows are: answers (sft), or pairs of a better and a worse answer (dpo).",
    "rank": "Rank of every LoRA pair. Default: 16.",
    "alpha": "Scale of the update. Default: the rank.",
    "learning_rate": "Peak learning rate. Default: 2e-4, for dpo 5e-6.",
    "epochs": "Passes over the data. Default: by its size.",
    "max_steps": "Optimiser steps, instead of epochs.",
    "batch_size": "Rows a step. Default: by their number.",
    "seed": "Decides the start and the order of the rows. Default: 0.",
    "target_modules": "Linear module to adapt; repeat it. Default: all but the head.",
    "quantization": "How the base is held; take what it is served as. Default: nf4.",
    "warmup_fraction": "Share of the steps in which the rate rises. Default: 0.05.",
    "rslora": "Divide alpha by the root of the rank.",
    "dora": "Train DoRA, which is served alone, not in blends.",
    "initialisation": "How the pairs start: default, gaussian or orthogonal.",
    "max_length": "Longest row in tokens. Default: the base's context.",
    "packing": "Lay the rows of a batch end to end. Default: on a GPU where the base allows it.",
    "gradient_checkpointing": "Compute activations twice to save memory. Default: on a GPU.",
    "optimizer": "What steps. Default: adamw.",
    "beta": "DPO's: how far answers may move from the start. Default: 0.1.",
    "checkpoint_steps": "Steps between checkpoints. Default: a tenth of all.",
    "early_stopping": "End after so many checkpoints without a better validation loss, and keep the best.",
    "validation_fraction": "Share of the rows held out without --validation. Default: 0.05.",
    "report_to": "wandb, tensorboard or mlflow; repeat it.",
    "any_learning_rate": "Take a rate that diverges on most models.",
}
NAMES = {"target_modules": "target"}


def recipe_parameters() -> Iterator[inspect.Parameter]:
    """Keyword parameters for Typer, named after the fields."""
    types = get_type_hints(Recipe)
    for each in fields(Recipe):
        flag = "--" + NAMES.get(each.name, each.name).replace("_", "-")
        kind = _kind(types[each.name])
        words = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        option = typer.Option(words, help=HELP[each.name], show_default=False)
        yield inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
        )


def flags_of(values: dict[str, Any]) -> dict[str, Any]:
    """Of a command's parameters those that are a recipe's and were given, as a file would have them."""
    names = [each.name for each in fields(Recipe)]
    given = {name: values[name] for name in names if values[name] not in (None, [])}
    return {name: _plain(value) for name, value in given.items()}


def _kind(kind: Any) -> Any:
    """What one value of the field is, for Typer; an initialisation is text, as some are refused with a reason."""
    choices = [each for each in get_args(kind) if each is not NoneType and each is not Ellipsis]
    if kind == tuple[str, ...] or getattr(kind, "__origin__", None) is tuple:
        return list[choices[0]]  # type: ignore[valid-type]  # a type made at run time
    single = choices[0] if choices else kind
    return str if getattr(single, "__name__", "") == "Initialisation" else single


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return value.value if isinstance(value, Enum) else value
