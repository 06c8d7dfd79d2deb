"""`lorikeet data`: check, look at, convert and split data files. What is heavy is imported inside."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.quantization import Quantization
from lorikeet_trainer.convert import Source
from lorikeet_trainer.convert import convert as converted_from
from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import DatasetRefused, OutputRefused
from lorikeet_trainer.jsonl import read_file
from lorikeet_trainer.output import whole_folder
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.rules import HELD_OUT, Rules
from lorikeet_trainer.saying import show_findings, show_first
from lorikeet_trainer.split import Shares, Side
from lorikeet_trainer.split import split as split_rows

SHARES = Shares()
data = typer.Typer(help="Check, look at, convert and split training data.", no_args_is_help=True)

Rows = Annotated[Path, typer.Argument(help="JSON lines, in a format that train reads.")]
Model = Annotated[
    str, typer.Option(help="The base whose tokenizer and template decide: demo, a folder, a hub id.")
]
MaxLength = Annotated[
    int | None, typer.Option(min=1, help="Longest row in tokens; default: the base's context.")
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", help="A label that there is; repeat it. Default: the file's.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
HeldAs = Annotated[Quantization, typer.Option(help="How the base will be held, for the estimate.")]
Where = Annotated[Device, typer.Option(help="Where training will be done, for the estimate.")]


@data.callback()
def root() -> None:
    """Check, look at, convert and split training data."""


@data.command()
def validate(
    file: Rows,
    *,
    validation: Annotated[Path | None, typer.Option(help="Held-out rows, checked beside the file.")] = None,
    model: Model = "demo",
    max_length: MaxLength = None,
    label: Labels = None,
    quantization: HeldAs = Quantization.NF4,
    device: Where = Device.CPU,
    as_json: Json = False,
) -> None:
    """Check a data file whole, and say what training on it would cost. Exit code 1: it cannot be used."""
    recipe = Recipe(max_length=max_length, quantization=quantization)
    rules = Rules(max_length=max_length, labels=tuple(label or ()))
    check_source(model)
    paths = [file] if validation is None else [file, validation]
    contents = [(path.name, _read(path)) for path in paths]
    from rich.console import Console

    errors = Console(stderr=True)
    with errors.status("loading libraries"):
        from lorikeet_trainer.checking import check
        from lorikeet_trainer.data_show import shown
        from lorikeet_trainer.device import refuse_missing

        refuse_missing(device)
    reports = check(contents, model, rules, recipe, device=device, console=errors)
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], ensure_ascii=False))
    for report in reports:
        if not as_json:
            Console().print(*shown(report), sep="\n")
            show_first(report.findings, report.counts)
    if not all(report.is_usable for report in reports):
        raise typer.Exit(1)


@data.command()
def preview(
    file: Rows,
    *,
    line: Annotated[int, typer.Option(min=1, help="Line of the row.")] = 1,
    model: Model = "demo",
    as_json: Json = False,
) -> None:
    """Show a row with its loss mask, beside the prompt that the server would render."""
    check_source(model)
    lines = _read(file).split(b"\n")
    if line > len(lines) or not lines[line - 1].strip():
        raise typer.BadParameter(f"{file.name} has no row on line {line}", param_hint="--line")
    # Alone, but on its own line.
    alone = b"\n" * (line - 1) + lines[line - 1]
    from rich.console import Console

    from lorikeet_trainer.data_show import sample_table
    from lorikeet_trainer.rendering import Renderer
    from lorikeet_trainer.sample import take_sample
    from lorikeet_trainer.validator import validate as validate_data

    renderer = Renderer.load(model)
    validated = validate_data(alone, file.name, renderer, HELD_OUT)
    sample = take_sample(alone, validated, renderer)
    if as_json:
        findings = [asdict(each) for each in validated.findings]
        typer.echo(
            json.dumps({"findings": findings, "sample": sample and asdict(sample)}, ensure_ascii=False)
        )
    else:
        show_findings(validated.findings)
        if sample is not None:
            Console().print(sample_table(sample))
    if not validated.is_usable:
        raise typer.Exit(1)


@data.command()
def convert(
    file: Annotated[Path, typer.Argument(help="JSON lines or one JSON array, of another tool.")],
    *,
    out: Annotated[Path, typer.Option(help="File to write.")],
    source: Annotated[
        Source | None, typer.Option("--from", help="What the rows are; default: the first tells.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn alpaca, sharegpt, or prompts with completions into chat rows. All rows, or none."""
    if out.exists() and not force:
        raise OutputRefused(f"`{out}` exists; choose another name, or replace it with --force")
    content = _read(file)
    try:
        done = converted_from(content, file.name, source)
    except DatasetRefused as refused:
        _refuse(refused, as_json)
    _write(out, done.data)
    if as_json:
        findings = [asdict(each) for each in done.warnings]
        typer.echo(
            json.dumps({"out": str(out), "from": done.source, "rows": done.rows, "findings": findings})
        )
        return
    show_findings(done.warnings)
    typer.echo(f"{out}: {done.rows:,} chat rows from {done.source}")


@data.command()
def split(
    file: Rows,
    *,
    out: Annotated[
        Path, typer.Option(help="Folder to write train.jsonl, validation.jsonl and test.jsonl in.")
    ],
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share of the rows.")] = SHARES.validation,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the rows.")] = SHARES.test,
    seed: Annotated[int, typer.Option(help="Another one, another split.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Tell rows to train on from rows to judge with, each by its own content: a row never changes sides."""
    if not 0 < validation + test < 1:
        raise typer.BadParameter(
            "--validation and --test together take more than 0 and less than 1 of the rows"
        )
    content = _read(file)
    try:
        sides = split_rows(content, file.name, Shares(validation, test), seed)
    except DatasetRefused as refused:
        _refuse(refused, as_json)
    with whole_folder(out, force=force) as folder:
        for side, lines in sides.items():
            (folder / f"{side}.jsonl").write_bytes(lines)
    rows = {side: lines.count(b"\n") for side, lines in sides.items()}
    if as_json:
        typer.echo(json.dumps({"out": str(out), "rows": rows}))
        return
    for side, count in rows.items():
        typer.echo(f"{out / f'{side}.jsonl'}: {count:,} rows")
    if not rows[Side.TRAIN]:
        typer.echo("no row is left to train on", err=True)


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except DatasetRefused as refused:
        raise RefusedError(str(refused)) from refused


def _write(out: Path, content: bytes) -> None:
    """Whole or not at all."""
    staging = out.with_name(f".{out.name}.part")
    try:
        staging.write_bytes(content)
        staging.replace(out)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise OutputRefused(f"`{out}` cannot be written: {error.strerror}") from error


def _refuse(refused: DatasetRefused, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(each) for each in refused.findings]}))
        raise typer.Exit(1)
    show_findings(refused.findings)
    raise RefusedError(refused.summary) from refused
