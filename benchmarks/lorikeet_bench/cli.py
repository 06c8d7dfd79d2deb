"""`lorikeet bench`. Everything heavy is imported inside the command."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.spec import MAX_RANK
from lorikeet_bench.more_cli import fidelity, scale, swap
from lorikeet_bench.output import check_out, finish, progress_bar
from lorikeet_bench.plan import DEFAULT_RANK, Plan, PlanRefused, parse_numbers
from lorikeet_bench.serving_cli import serving
from lorikeet_bench.shapes import SHAPES, shape_of
from lorikeet_bench.versus_cli import versus
from lorikeet_server.engine.config import KernelName

DEFAULT = Plan()


def _joined(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


bench = typer.Typer(help="Measure on this machine what adapters cost.", no_args_is_help=True)


for command in (serving, versus, scale, swap, fidelity):
    bench.command()(command)


@bench.command()
def compare(
    old: Annotated[Path, typer.Argument(help="Result file of an earlier run.")],
    new: Annotated[Path, typer.Argument(help="Result file of the same benchmark, run now.")],
    tolerance: Annotated[float, typer.Option(min=0.0, max=10.0, help="How much slower is too slow.")] = 0.1,
) -> None:
    """Say what became worse between two result files; exit code 1 if anything did.

    Slower beyond chance and tolerance, less throughput or goodput, more failures, an arm that is gone.
    """
    from rich.console import Console

    from lorikeet_bench import compare as comparing

    found = comparing.compare(comparing.read_result(old), comparing.read_result(new), tolerance)
    Console().print(comparing.make_table(found))
    raise typer.Exit(1 if found.regressed else 0)


@bench.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="Result files.")],
    out: Annotated[Path, typer.Option(help="Folder for the page and its pictures; made if it is missing.")],
) -> None:
    """Turn result files into one Markdown page with pictures."""
    from lorikeet_bench.compare import read_result
    from lorikeet_bench.markdown import render

    documents = {path.stem: read_result(path) for path in results}
    if len(documents) < len(results):
        raise PlanRefused("two result files have the same name; the page could not tell them apart")
    try:
        from lorikeet_bench.plots import draw
    except ImportError as error:
        raise PlanRefused("pictures need matplotlib: pip install 'lorikeet[bench]'") from error
    out.mkdir(parents=True, exist_ok=True)
    page = out / "README.md"
    try:
        pictures = {name: draw(name, document, out) for name, document in documents.items()}
        page.write_text(render(documents, pictures) + "\n")
    except KeyError as error:
        raise PlanRefused(f"a result file has no {error}: another version wrote it; measure again") from error
    typer.echo(f"{page}: {len(documents)} results, {sum(map(len, pictures.values()))} pictures")


@bench.command("make-model")
def make_model(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    adapters: Annotated[int, typer.Option(min=0, max=1000, help="Adapters to write beside it.")] = 8,
    rank: Annotated[int, typer.Option(min=1, max=MAX_RANK, help="Their rank.")] = DEFAULT_RANK,
    seed: Annotated[int, typer.Option(min=0, help="Decides every weight.")] = 0,
) -> None:
    """Write a model of real shape with random weights, where none can be downloaded."""
    found = shape_of(shape)
    from rich.console import Console

    with Console(stderr=True).status(f"making {shape}"):
        from lorikeet_bench import random_model

        random_model.make_model(found, out, adapters=adapters, rank=rank, seed=seed)
    typer.echo(
        f"{out}: {shape} with random weights, {adapters} adapters of rank {rank} in {out / 'adapters'}"
    )


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
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas between.")] = _joined(DEFAULT.batches),
    tokens: Annotated[int, typer.Option(help="Tokens each request generates.")] = DEFAULT.tokens,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = DEFAULT.prompt_tokens,
    repeat: Annotated[int, typer.Option(help="Rounds, each with every arm once.")] = DEFAULT.repetitions,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")] = 0,
    ranks: Annotated[
        str | None,
        typer.Option(
            help=f"Ranks of adapters made at random, with commas between; {DEFAULT_RANK} if left out. "
            "Not with --adapter, nor with the demo base, which has adapters of its own."
        ),
    ] = None,
    adapters: Annotated[
        str, typer.Option(help="How many distinct adapters share a batch, with commas between.")
    ] = _joined(DEFAULT.adapters),
    adapter: Annotated[
        list[Path] | None, typer.Option(help="Adapter folder to measure; repeat it. The first is merged.")
    ] = None,
    kernel: Annotated[
        KernelName, typer.Option(help="What computes our arms, as of `lorikeet serve`.")
    ] = DEFAULT.kernel,
    peers: Annotated[bool, typer.Option(help="Measure PEFT and transformers beside us.")] = DEFAULT.peers,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON document to.")] = None,
) -> None:
    """Time per token of base, adapters, merged weights, blends, mixed batches and others' ways, side by side."""
    plan = Plan(
        model=model,
        quantization=quantization,
        batches=parse_numbers("--batch", batch),
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        repetitions=repeat,
        folders=tuple(adapter or ()),
        ranks=() if ranks is None else parse_numbers("--ranks", ranks),
        adapters=parse_numbers("--adapters", adapters),
        peers=peers,
        kernel=kernel,
    )
    check_out(out)
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
    check_out(out)
    check_source(model)
    with progress_bar() as progress:
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
    finish(document, make_table(document), out)


def _run(plan: Plan, threads: int, out: Path | None) -> None:
    with progress_bar() as progress:
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
    finish(document, make_table(document, results), out)
