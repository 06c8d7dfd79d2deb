"""What a recipe may ask for only where it is there. Said before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import RecipeRefused
from lorikeet_trainer.recipe import Optimizer, Recipe, Tracker

MODULES = {
    Tracker.WANDB: ("wandb",),
    Tracker.TENSORBOARD: ("tensorboard", "tensorboardX"),
    Tracker.MLFLOW: ("mlflow",),
}


def refuse_unavailable(recipe: Recipe, device: Device) -> None:
    """Raises RecipeRefused for trackers that are not installed and optimisers that the device has not."""
    reasons = tuple(_reasons(recipe, device))
    if reasons:
        raise RecipeRefused(reasons)


def _reasons(recipe: Recipe, device: Device) -> Iterator[str]:
    for tracker in recipe.report_to:
        if not any(find_spec(module) for module in MODULES[tracker]):
            yield f"report_to {tracker} needs a package that is not installed: pip install {MODULES[tracker][0]}"
    if recipe.optimizer is Optimizer.PAGED_ADAMW_8BIT and device is not Device.CUDA:
        yield (
            "the optimizer paged_adamw_8bit moves its state between a GPU's memory and the host's, "
            "so it needs --device cuda; take adamw or adamw_8bit"
        )
