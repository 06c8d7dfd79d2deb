"""`lorikeet bench`. Everything heavy is imported inside the command."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.plan import Plan, PlanRefused, parse_batches, parse_folders

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

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
    _check_out(out)
    check_source(model)
    _run(plan, threads, out)


@bench.command()
def prefix(
    model: Annotated[str, typer.Option(help="demo, a model folder, or a hub id.")] = "demo",
    quantization: Annotated[
        Quantization, typer.Option(help="How the weights are held; auto is nf4.")
    ] = Quantization.AUTO,
    prefix_tokens: Annotated[int, typer.Option(help="Tokens of the beginning that prompts share.")] = 256,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt beside it.")] = 16,
    repeat: Annotated[int, typer.Option(help="Rounds, each with both arms once.")] = 20,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")] = 0,
    rank: Annotated[int, typer.Option(help="Rank of the adapter, made at random.")] = 16,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON document to.")] = None,
) -> None:
    """Time to the first token with the prompt's beginning kept from before, and without."""
    _check_out(out)
    check_source(model)
    with _progress() as progress:
        task = progress.add_task("loading", total=2 * repeat)
        import torch

        from lorikeet_bench.machine import describe_machine
        from lorikeet_bench.prefix import PrefixPlan, make_table, run

        plan = PrefixPlan(model, quantization, prefix_tokens, prompt_tokens, repeat, rank)
        if threads:
            torch.set_num_threads(threads)
        document = run(
            plan, describe_machine, lambda label: progress.update(task, advance=1, description=label)
        )
    _finish(document, make_table(document), out)


def _check_out(out: Path | None) -> None:
    if out is not None and not out.parent.is_dir():
        raise PlanRefused(f"--out is {str(out)!r}, but its folder does not exist")


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _finish(document: dict[str, Any], table: Table, out: Path | None) -> None:
    """The table for people, then the document as the last line for programs."""
    from rich.console import Console

    if out is not None:
        out.write_text(json.dumps(document, indent=2) + "\n")
    Console().print(table)
    typer.echo(json.dumps(document))


def _run(plan: Plan, threads: int, out: Path | None) -> None:
    with _progress() as progress:
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
    _finish(document, make_table(document, results), out)
