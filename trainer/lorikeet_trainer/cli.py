"""`lorikeet train` and `lorikeet eval`. Everything heavy is imported inside the commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.names import check_name
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.spec import parse_spec
from lorikeet_trainer.data_commands import data as data_commands
from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.jsonl import unreadable
from lorikeet_trainer.output import refuse_taken
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.saying import show_findings
from lorikeet_trainer.scores import BASE

DEFAULT = Recipe()

Model = Annotated[str, typer.Option(help="demo, a model folder, or a hub id.")]
HeldAs = Annotated[Quantization, typer.Option(help="How the base is held; take what it is served as.")]
Where = Annotated[Device, typer.Option(help="Where to compute.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")]
Rows = Annotated[Path, typer.Argument(help="JSONL: chat messages, or prompt and completion.")]
HeldOut = Annotated[Path | None, typer.Argument(help="Held-out rows, in a format that train reads.")]
Alpha = Annotated[float | None, typer.Option(help="Scale of the update; default: the rank.")]
Targets = Annotated[
    list[str] | None, typer.Option(help="Linear module to adapt; repeat it. Default: all but the head.")
]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data; default: by its size.")]
MaxSteps = Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")]
BatchSize = Annotated[int | None, typer.Option(help="Rows a step; default: by their number.")]
MaxLength = Annotated[int | None, typer.Option(help="Longest row in tokens; default: the base's context.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer; default: twice the longest reference.")
]


def register(app: typer.Typer) -> None:
    """Add this package's commands to the `lorikeet` command."""
    app.command()(train)
    app.command("eval")(evaluate)
    app.add_typer(data_commands, name="data")


def train(
    data: Rows,
    *,
    name: Annotated[str, typer.Option(help="The adapter's name.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: the name.")] = None,
    model: Model = "demo",
    quantization: HeldAs = DEFAULT.quantization,
    device: Where = Device.CPU,
    rank: Annotated[int, typer.Option(help="Rank of every LoRA pair.")] = DEFAULT.rank,
    alpha: Alpha = DEFAULT.alpha,
    rslora: Annotated[bool, typer.Option("--rslora", help="Divide alpha by the root of the rank.")] = False,
    target: Targets = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = DEFAULT.learning_rate,
    warmup_fraction: Warmup = DEFAULT.warmup_fraction,
    epochs: Epochs = DEFAULT.epochs,
    max_steps: MaxSteps = DEFAULT.max_steps,
    batch_size: BatchSize = DEFAULT.batch_size,
    max_length: MaxLength = DEFAULT.max_length,
    seed: Annotated[int, typer.Option(help="Decides the start and the order of the rows.")] = DEFAULT.seed,
    threads: Threads = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder if it exists.")] = False,
) -> None:
    """Train a LoRA adapter on the base as it is served."""
    check_name(name)
    recipe = Recipe(
        rank=rank,
        alpha=alpha,
        learning_rate=learning_rate,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        seed=seed,
        target_modules=tuple(target or ()),
        quantization=quantization,
        warmup_fraction=warmup_fraction,
        rslora=rslora,
        max_length=max_length,
    )
    folder = out or Path(name)
    check_source(model)
    refuse_taken(folder, force=force)
    _refuse_unreadable(data)
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("loading libraries"):
        _set_threads(threads)
        from lorikeet_trainer.progress import display_on
        from lorikeet_trainer.train import Job
        from lorikeet_trainer.train import train as run

    try:
        trained = run(Job(data, folder, model, device, recipe, force), display_on(console))
    except DatasetRefused as refused:
        show_findings(refused.findings)
        raise RefusedError(refused.summary) from refused
    show_findings(trained.dataset.warnings)
    rows, steps = len(trained.dataset.rows), trained.plan.steps
    typer.echo(f"{folder}: {rows} rows, {steps} steps, loss {trained.final_loss:.4f}")
    typer.echo(f"register it: lorikeet adapters add {shlex.quote(str(folder))} --name {shlex.quote(name)}")


def evaluate(
    data: HeldOut = None,
    *,
    adapter: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER to judge; repeat it.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Judge the embedded demo instead.")] = False,
    model: Model = "demo",
    quantization: HeldAs = DEFAULT.quantization,
    device: Where = Device.CPU,
    max_tokens: MaxTokens = None,
    threads: Threads = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables.")
    ] = False,
) -> None:
    """Judge adapters beside the base, through the engine that serves them."""
    if demo == (data is not None):
        raise typer.BadParameter("name a data file, or say --demo")
    if demo and (adapter or max_tokens or model != "demo"):
        raise typer.BadParameter("--demo brings its own model, adapters and lengths")
    folders = _named_folders(adapter or ())
    check_source(model)
    if data is not None:
        _refuse_unreadable(data)
    from rich.console import Console

    with Console(stderr=True).status("judging"):
        _set_threads(threads)
        from lorikeet_trainer.verdict import HeldBase, judge_demo, judge_file

        base = HeldBase(model, quantization, device)
        try:
            verdict = judge_demo(base) if data is None else judge_file(base, data, folders, max_tokens)
        except DatasetRefused as refused:
            show_findings(refused.findings)
            raise RefusedError(refused.summary) from refused
    if as_json:
        typer.echo(verdict.to_json())
    else:
        Console().print(*verdict.tables(), sep="\n")


def _named_folders(texts: Iterable[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not folder:
            raise typer.BadParameter(f"{text}: write NAME=FOLDER", param_hint="--adapter")
        if name in folders:
            raise typer.BadParameter(f"{name} stands twice", param_hint="--adapter")
        if name == BASE:
            raise typer.BadParameter(f"{BASE} is the base model itself in the table", param_hint="--adapter")
        with open_folder(Path(folder), folder) as files:
            parse_spec(files.config)
        folders[check_name(name)] = Path(folder)
    return folders


def _refuse_unreadable(data: Path) -> None:
    """Raises DatasetRefused: what is in a file is judged later, that there is none is known at once."""
    try:
        with data.open("rb"):
            pass
    except OSError as error:
        raise unreadable(data, error) from error


def _set_threads(threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
