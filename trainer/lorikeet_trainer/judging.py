"""`lorikeet eval`. Everything heavy is imported inside the command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.names import check_name
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.source import open_folder
from lorikeet_adapters.spec import parse_spec
from lorikeet_trainer.cli import Threads, Where, set_threads
from lorikeet_trainer.contestants import find_contestants
from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.saying import refuse_unreadable, show_findings
from lorikeet_trainer.scores import BASE

if TYPE_CHECKING:
    from lorikeet_trainer.verdict import DemoVerdict, Verdict

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME|NAME=FOLDER]... DATA",
        help="Registered adapters, or folders under a name; then held-out rows in a format that train reads.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="demo, a model folder, or a hub id. Default: what a registered adapter's data folder was last "
        "served with, else demo."
    ),
]
HeldAs = Annotated[
    Quantization | None, typer.Option(help="How the base is held. Default: as it was last served, else nf4.")
]
DataDir = Annotated[
    Path, typer.Option(envvar="LORIKEET_DATA_DIR", help="The data folder that registered names are in.")
]
DATA_DIR = Path("lorikeet-data")
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer; default: twice the longest reference.")
]
Adapter = Annotated[list[str] | None, typer.Option(help="NAME=FOLDER, as among the words; repeat it.")]


def evaluate(
    words: Words = None,
    *,
    adapter: Adapter = None,
    demo: Annotated[bool, typer.Option("--demo", help="Judge the embedded demo instead.")] = False,
    model: Model = None,
    quantization: HeldAs = None,
    device: Where = Device.CPU,
    max_tokens: MaxTokens = None,
    data_dir: DataDir = DATA_DIR,
    threads: Threads = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables.")
    ] = False,
) -> None:
    """Judge adapters beside the base, and beside those they were trained on from, as the server runs them."""
    *judged, data = words or [""]
    if demo == bool(data) or "=" in data:
        raise typer.BadParameter("name a data file as the last word, or say --demo")
    if demo and (adapter or max_tokens or model):
        raise typer.BadParameter("--demo brings its own model, adapters and lengths")
    named = name_adapters((*judged, *(adapter or ())), needs_folder=adapter or ())
    check_source(model or "demo")
    if data:
        refuse_unreadable(Path(data))
    from rich.console import Console

    with find_contestants(named, data_dir) as found, Console(stderr=True).status("judging"):
        set_threads(threads)
        from lorikeet_trainer.judge import HeldBase
        from lorikeet_trainer.verdict import judge_demo, judge_file

        base = HeldBase(*found.base_of(model, quantization), device)
        try:
            if demo:
                verdict: Verdict | DemoVerdict = judge_demo(base)
            else:
                verdict = judge_file(base, Path(data), dict(found.folders), max_tokens)
        except DatasetRefused as refused:
            show_findings(refused.findings)
            raise RefusedError(refused.summary) from refused
    for name, parent in found.missing.items():
        typer.echo(f"{name} was trained on from {parent}, which is not in {data_dir}", err=True)
    if as_json:
        typer.echo(verdict.to_json())
    else:
        Console().print(*verdict.tables(), sep="\n")


def name_adapters(words: Iterable[str], needs_folder: Sequence[str] = ()) -> dict[str, Path | None]:
    """`NAME` or `NAME=FOLDER` each; None is a name that is registered.

    Raises BadParameter, NameRefused, and AdapterRefused for a folder that holds no adapter.
    """
    named: dict[str, Path | None] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if (equals and not folder) or (word in needs_folder and not equals):
            raise typer.BadParameter(f"{word}: write NAME=FOLDER")
        if name in named:
            raise typer.BadParameter(f"{name} stands twice")
        if name == BASE:
            raise typer.BadParameter(f"{BASE} is the base model itself in the table")
        named[check_name(name)] = Path(folder) if equals else None
        if equals:
            with open_folder(Path(folder), folder) as files:
                parse_spec(files.config)
    return named
