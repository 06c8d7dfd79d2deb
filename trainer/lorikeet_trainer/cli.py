"""`lorikeet train`, and what all commands here share. Everything heavy is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.quantization import Quantization
from lorikeet_trainer.data_commands import data as data_commands
from lorikeet_trainer.device import Device
from lorikeet_trainer.recipe import Recipe

DEFAULT = Recipe()

Model = Annotated[str, typer.Option(help="demo, a model folder, or a hub id.")]
HeldAs = Annotated[Quantization, typer.Option(help="How the base is held; take what it is served as.")]
Where = Annotated[Device, typer.Option(help="Where to compute.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")]
Rows = Annotated[Path, typer.Argument(help="JSONL: chat messages, or prompt and completion.")]
Alpha = Annotated[float | None, typer.Option(help="Scale of the update; default: the rank.")]
Targets = Annotated[
    list[str] | None, typer.Option(help="Linear module to adapt; repeat it. Default: all but the head.")
]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data; default: by its size.")]
MaxSteps = Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")]
BatchSize = Annotated[int | None, typer.Option(help="Rows a step; default: by their number.")]
MaxLength = Annotated[int | None, typer.Option(help="Longest row in tokens; default: the base's context.")]


def register(app: typer.Typer) -> None:
    """Add this package's commands to the `lorikeet` command."""
    from lorikeet_trainer.judging import evaluate
    from lorikeet_trainer.merging import merge
    from lorikeet_trainer.training import train_command

    app.command("train")(train_command())
    app.command("eval")(evaluate)
    app.add_typer(data_commands, name="data")
    app.command()(merge)


def set_threads(threads: int) -> None:
    """0 leaves torch's choice."""
    import torch

    if threads:
        torch.set_num_threads(threads)
