"""`lorikeet merge`. Everything heavy is imported inside the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import MixRefused
from lorikeet_adapters.mix import Mix, parse_mix
from lorikeet_trainer.card import loss_of
from lorikeet_trainer.cli import Threads, Where, set_threads
from lorikeet_trainer.contestants import find_contestants
from lorikeet_trainer.device import Device
from lorikeet_trainer.judging import DATA_DIR, Adapter, DataDir, HeldAs, Model, name_adapters
from lorikeet_trainer.output import refuse_taken
from lorikeet_trainer.saying import refuse_unreadable

Parts = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME[:WEIGHT]...", help="What is merged, like `formal` or `formal:0.7 json:0.3`."
    ),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(help="Rows whose answers are compared; default: the mix's own to two fixed questions."),
]


class Precision(StrEnum):
    """In what numbers the merged model is written."""

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


def merge(
    parts: Parts,
    *,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    adapter: Adapter = None,
    model: Model = None,
    quantization: HeldAs = None,
    device: Where = Device.CPU,
    dtype: Annotated[Precision, typer.Option(help="auto is the base's own.")] = Precision.AUTO,
    data: HeldOut = None,
    data_dir: DataDir = DATA_DIR,
    threads: Threads = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a plain model of the base and a mix, and measure how far it is from the mix as it is served."""
    given = name_adapters(adapter or (), needs_folder=adapter or ())
    mix = Mix.of(term for part in parts for term in parse_mix(part, given.__contains__))
    refuse_taken(out, force=force)
    check_source(model or "demo")
    if data is not None:
        refuse_unreadable(data)
    named = _named(mix, given)
    from rich.console import Console

    with find_contestants(named, data_dir) as found, Console(stderr=True).status("merging"):
        set_threads(threads)
        from lorikeet_trainer import merge as merging
        from lorikeet_trainer.judge import HeldBase

        base = HeldBase(*found.base_of(model, quantization), device)
        wanted = merging.Merge(mix, found.folders, base, merging.DTYPES[dtype], data)
        merged = merging.merge(wanted, out, force=force)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **asdict(merged)}))
        return
    typer.echo(f"{out}: {merged.dtype}{', its head untied from the embedding' if merged.untied else ''}")
    typer.echo(loss_of(base.quantization, merged.dtype))
    typer.echo(f"measured: {merged.distance.sentence}")


def _named(mix: Mix, given: Mapping[str, Path | None]) -> dict[str, Path | None]:
    """Only what the mix needs, so that a folder that was named for nothing is an error."""
    unused = sorted(given.keys() - set(mix.adapters))
    if unused:
        raise MixRefused(f"--adapter {unused[0]} is not in the mix; name it among the parts")
    return {name: given.get(name) for name in mix.adapters}
