"""A training file, and the rows that are held out of it, each to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from lorikeet_trainer.data_watch import watching
from lorikeet_trainer.estimate import estimate
from lorikeet_trainer.holdout import split
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.remarks import overlap
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.report import Report, report_on
from lorikeet_trainer.rules import HELD_OUT, Rules
from lorikeet_trainer.sample import take_sample
from lorikeet_trainer.validator import Validated, validate


def check(
    files: Sequence[tuple[str, bytes]],
    model: str,
    rules: Rules,
    recipe: Recipe,
    *,
    device: str,
    console: Console,
) -> list[Report]:
    """Names and contents of one file, or of two: to train on, and held out. Raises BaseModelRefused."""
    renderer = Renderer.load(model)
    (name, data), *held_out = files
    with watching(console, name) as watch:
        training = validate(data, name, renderer, rules, watch)
    cost = estimate(model, recipe, training if held_out else _without_held(training, recipe), device)
    reports = [report_on(training, (), cost, take_sample(data, training, renderer))]
    alone = replace(HELD_OUT, labels=rules.labels)
    for name_, data_ in held_out:
        beside = Rules.beside(training.dataset()) if training.is_usable else alone
        with watching(console, name_) as watch:
            validated = validate(data_, name_, renderer, beside, watch)
        both = training.is_usable and validated.is_usable
        more = overlap(training.dataset(), validated.dataset()) if both else ()
        reports.append(report_on(validated, more, None, take_sample(data_, validated, renderer)))
    return reports


def _without_held(training: Validated, recipe: Recipe) -> Validated:
    """What a run that is given no held-out rows keeps to train on; a file that is refused has no run."""
    if not training.is_usable:
        return training
    kept, _ = split(training.dataset(), recipe.validation_fraction)
    return replace(training, rows=kept.rows, pairs=kept.pairs)
