"""`lorikeet bench scale | swap | fidelity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.output import check_out, finish, progress_bar
from lorikeet_bench.plan import FEWEST_REPETITIONS, parse_numbers

Model = Annotated[str, typer.Option(help="demo, a model folder, or a hub id.")]
HeldAs = Annotated[Quantization, typer.Option(help="How the weights are held; auto is nf4.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")]
Rank = Annotated[int, typer.Option(help="Rank of the adapters, made at random.")]
Repeat = Annotated[int, typer.Option(help="Rounds.")]
Out = Annotated[Path | None, typer.Option(help="File to write the JSON document to.")]


def scale(
    *,
    model: Model = "demo",
    quantization: HeldAs = Quantization.AUTO,
    names: Annotated[
        str,
        typer.Option(
            help="Numbers of adapters that requests may name, with commas between; ratios are over the first."
        ),
    ] = "8,1,64,1000",
    few: Annotated[int, typer.Option(help="Adapters that fit at once in the arm that evicts.")] = 16,
    rank: Rank = 8,
    requests: Annotated[int, typer.Option(help="Requests a pass.")] = 200,
    repeat: Repeat = FEWEST_REPETITIONS,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Throughput and first tokens with ever more adapters to be named, with and without eviction."""
    check_out(out)
    check_source(model)
    numbers = parse_numbers("--names", names)
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None)
        import torch

        from lorikeet_bench.machine import describe_machine
        from lorikeet_bench.scale import ScalePlan, make_table, run, steps

        plan = ScalePlan(model, quantization, numbers, few, rank, requests, repetitions=repeat)
        if threads:
            torch.set_num_threads(threads)
        progress.update(task, total=steps(plan))
        document = run(
            plan, describe_machine, lambda label: progress.update(task, advance=1, description=label)
        )
    finish(document, make_table(document), out)


def swap(
    *,
    model: Model = "demo",
    quantization: HeldAs = Quantization.AUTO,
    rank: Rank = 16,
    repeat: Repeat = 10,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """From an adapter's file to its first token, and the stall that running requests see."""
    check_out(out)
    check_source(model)
    with progress_bar() as progress:
        task = progress.add_task("loading", total=repeat)
        import torch

        from lorikeet_bench.machine import describe_machine
        from lorikeet_bench.swap import SwapPlan, make_table, run

        plan = SwapPlan(model, quantization, rank, repetitions=repeat)
        if threads:
            torch.set_num_threads(threads)
        document = run(
            plan, describe_machine, lambda label: progress.update(task, advance=1, description=label)
        )
    finish(document, make_table(document), out)


def fidelity(
    rows: Annotated[int, typer.Option(help="Held-out rows of each demo adapter.")] = 50,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """How far merging and quantising move the outputs of the demo's adapters."""
    check_out(out)
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None)
        import torch

        from lorikeet_bench.fidelity import make_table, run, steps
        from lorikeet_bench.machine import describe_machine

        if threads:
            torch.set_num_threads(threads)
        progress.update(task, total=steps())
        document = run(
            rows, describe_machine, lambda label: progress.update(task, advance=1, description=label)
        )
    finish(document, make_table(document), out)
