"""`lorikeet bench`. Everything heavy is imported inside the command."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.plan import Plan, PlanRefused, parse_batches, parse_folders

DEFAULT = Plan()

bench = typer.Typer(help="Measure on this machine what adapters cost.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this package's commands to the `lorikeet` command."""
    app.add_typer(bench, name="bench")


@bench.callback()
def root() -> None:
    """Measure on this machine what adapters cost."""


@bench.command()
def latency(
    model: Annotated[str, typer.Option(help="demo, a model folder, or a hub id.")] = DEFAULT.model,
    quantization: Annotated[
        Quantization, typer.Option(help="How every arm's weights are held; auto is nf4.")
    ] = DEFAULT.quantization,
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas between.")] = ",".join(
        map(str, DEFAULT.batches)
    ),
    tokens: Annotated[int, typer.Option(help="Tokens each request generates.")] = DEFAULT.tokens,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = DEFAULT.prompt_tokens,
    repeat: Annotated[int, typer.Option(help="Rounds, each with every arm once.")] = DEFAULT.repetitions,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")] = 0,
    adapters: Annotated[
        str, typer.Option(help="Up to four adapter folders, with commas between; the first is merged.")
    ] = "",
    rank: Annotated[int, typer.Option(help="Rank of adapters made at random.")] = DEFAULT.rank,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON document to.")] = None,
) -> None:
    """Time per token of base, adapter, merged adapter, blend and mixed batch, side by side."""
    plan = Plan(
        model=model,
        quantization=quantization,
        batches=parse_batches(batch),
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        repetitions=repeat,
        adapters=parse_folders(adapters),
        rank=rank,
    )
    if out is not None and not out.parent.is_dir():
        raise PlanRefused(f"--out is {str(out)!r}, but its folder does not exist")
    _run(plan, threads, out)


def _run(plan: Plan, threads: int, out: Path | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading and merging", total=None)
        import torch

        from lorikeet_bench.arms import open_bench
        from lorikeet_bench.latency import count_batches, measure
        from lorikeet_bench.machine import describe_machine
        from lorikeet_bench.probe import BandwidthProbe
        from lorikeet_bench.report import make_document, make_table, summarise

        if threads:
            torch.set_num_threads(threads)
        machine, started = describe_machine(), datetime.now(UTC)
        with open_bench(plan) as opened:
            progress.update(task, total=count_batches(opened, plan))
            runs = measure(
                opened,
                plan,
                BandwidthProbe(),
                lambda label: progress.update(task, advance=1, description=label),
            )
            results = summarise(runs, plan.seed)
            document = make_document(opened, plan, machine, results, started)
    if out is not None:
        out.write_text(json.dumps(document, indent=2) + "\n")
    Console().print(make_table(document, results))
    typer.echo(json.dumps(document))
