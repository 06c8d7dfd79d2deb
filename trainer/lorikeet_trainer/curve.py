"""The loss curve as a picture, for those who look rather than read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lorikeet_trainer.history import LossPoint

CURVE_FILE = "loss.png"


def draw_curve(folder: Path, history: Sequence[LossPoint]) -> bool:
    """Write loss.png; False, and nothing written, where matplotlib is not installed. Equal losses give equal bytes."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([each.step for each in history], [each.train_loss for each in history], label="training")
    held = [(each.step, each.valid_loss) for each in history if each.valid_loss is not None]
    if held:
        axes.plot(*zip(*held, strict=True), marker="o", label="validation")
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / CURVE_FILE, dpi=120, metadata={"Software": None})
    return True
