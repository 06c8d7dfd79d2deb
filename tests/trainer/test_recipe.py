"""A recipe that cannot work is refused with every reason; what is left open is filled in from the rows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lorikeet_adapters.quantization import Quantization
from lorikeet_trainer.errors import RecipeRefused
from lorikeet_trainer.recipe import (
    DIVERGING_RATE,
    Initialisation,
    Method,
    Optimizer,
    Plan,
    Recipe,
)

TARGETS = ("q_proj", "v_proj")


def plan(recipe: Recipe, rows: int = 200) -> Plan:
    return recipe.plan(rows, 1024, TARGETS)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rank", 0),
        ("rank", 5000),
        ("alpha", 0.0),
        ("alpha", math.nan),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", DIVERGING_RATE),
        ("epochs", 0.0),
        ("epochs", math.inf),
        ("max_steps", 0),
        ("batch_size", -1),
        ("max_length", 0),
        ("warmup_fraction", 1.0),
        ("warmup_fraction", -0.1),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_a_setting_that_cannot_work_is_refused(setting: str, value: float) -> None:
    wrong: dict[str, Any] = {setting: value}
    with pytest.raises(RecipeRefused, match=setting.replace("_", " ").replace("warmup", "warm-up")):
        Recipe(**wrong)


def test_all_reasons_come_at_once() -> None:
    with pytest.raises(RecipeRefused) as caught:
        Recipe(rank=0, learning_rate=1.0, epochs=1, max_steps=5, batch_size=0)
    assert len(caught.value.reasons) == 4


def test_the_defaults_are_those_of_the_literature() -> None:
    assert plan(Recipe()) == Plan(
        method=Method.SFT,
        rank=16,
        alpha=16.0,
        learning_rate=2e-4,
        steps=150,
        epochs=3.0,
        batch_size=4,
        warmup_steps=8,
        seed=0,
        target_modules=TARGETS,
        quantization=Quantization.NF4,
        rslora=False,
        dora=False,
        initialisation=Initialisation.DEFAULT,
        max_length=1024,
        packing=False,
        optimizer=Optimizer.ADAMW,
        beta=None,
        checkpoint_steps=15,
        early_stopping=None,
    )
    assert plan(Recipe(method=Method.DPO)).learning_rate == 5e-6


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(3, 3, 10.0), (40, 4, 10.0), (100, 4, 4.0), (499, 9, 3.0), (1000, 20, 2.0), (100_000, 32, 1.0)],
)
def test_batch_size_and_epochs_follow_the_number_of_rows(rows: int, batch_size: int, epochs: float) -> None:
    chosen = plan(Recipe(), rows)
    assert (chosen.batch_size, chosen.epochs) == (batch_size, epochs)
    assert chosen.steps == math.ceil(rows / batch_size) * epochs


def test_what_is_given_is_kept() -> None:
    chosen = plan(Recipe(alpha=8.5, max_steps=7, batch_size=50, warmup_fraction=0, max_length=64))
    assert (chosen.alpha, chosen.steps, chosen.batch_size) == (8.5, 7, 50)
    assert (chosen.warmup_steps, chosen.max_length, chosen.epochs) == (0, 64, 1.75)


def test_warm_up_leaves_a_step_to_train_in() -> None:
    assert plan(Recipe(max_steps=1)).warmup_steps == 0
    assert plan(Recipe(max_steps=10, warmup_fraction=0.99)).warmup_steps == 9


def test_rows_may_not_be_longer_than_the_context() -> None:
    assert plan(Recipe(max_length=100_000)).max_length == 1024
