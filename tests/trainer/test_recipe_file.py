"""A recipe from a file and flags, and the flags themselves."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

from lorikeet_trainer.errors import RecipeRefused
from lorikeet_trainer.recipe import REFUSED_INITIALISATIONS, Initialisation, Method, Recipe, Tracker
from lorikeet_trainer.recipe_file import make_recipe, recipe_schema
from lorikeet_trainer.recipe_flags import HELP, recipe_parameters
from lorikeet_trainer.request import Request


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.toml", 'method = "dpo"\nrank = 8\ntarget_modules = ["q_proj"]\nreport_to = ["wandb"]\n'),
        ("r.yaml", "method: dpo\nrank: 8\ntarget_modules: [q_proj]\nreport_to: [wandb]\n"),
    ],
)
def test_a_file_and_flags_before_it(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    expected = Recipe(method=Method.DPO, rank=8, target_modules=("q_proj",), report_to=(Tracker.WANDB,))
    assert make_recipe(file, {}) == expected
    assert make_recipe(file, {"rank": 4, "alpha": None}).rank == 4


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("r.json", "{}", "none of .toml, .yaml, .yml"),
        ("r.toml", "rank = ", "no TOML"),
        ("r.yaml", "rank: [", "no YAML"),
        ("r.yaml", "- 1", "no table of settings"),
        ("r.yaml", "rnak: 8\n8: 9", r"r\.yaml: 8 is no setting.*; r\.yaml: rnak is no setting of a recipe"),
        ("r.toml", "gradient_accumulation_steps = 4", "gradient_accumulation_steps is not built: .* Lower"),
        ("r.yaml", "initialisation: [eva]", "initialisation: input should be"),
        ("r.yaml", "rank: many", "rank: input should be a valid integer"),
        ("r.yaml", "rank: 0", "rank 0 is not between"),
        ("r.yaml", "optimizer: sgd", "optimizer: input should be 'adamw'"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path: Path, name: str, text: str, reason: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(RecipeRefused, match=reason):
        make_recipe(file, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeRefused, match=r"none.toml. cannot be read: No such file"):
        make_recipe(tmp_path / "none.toml", {})


@pytest.mark.parametrize("name", sorted(REFUSED_INITIALISATIONS))
def test_initialisations_that_rewrite_the_base_are_refused(name: str) -> None:
    with pytest.raises(RecipeRefused, match=f"initialisation {name} (rewrites the base|needs a pass)"):
        make_recipe(None, {"initialisation": name})


def test_the_schema_takes_what_we_take_and_nothing_unknown() -> None:
    schema = recipe_schema()
    jsonschema.validate({"rank": 8, "initialisation": "gaussian"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"rnak": 8}, schema)


def test_every_field_has_a_flag_and_a_word_of_help() -> None:
    names = [each.name for each in fields(Recipe)]
    assert sorted(HELP) == sorted(names)
    assert [each.name for each in recipe_parameters()] == names


def test_a_request_comes_back_as_it_was(tmp_path: Path) -> None:
    recipe = Recipe(rank=8, initialisation=Initialisation.GAUSSIAN, target_modules=("a", "b"), alpha=0.1)
    request = Request("mood", tmp_path / "rows", parent=tmp_path, quality_gate=False, recipe=recipe)
    request.write(tmp_path)
    assert Request.read(tmp_path) == request
