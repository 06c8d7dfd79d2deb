"""`lorikeet adapters`: register, list and remove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_server.desk import open_desk

adapters = typer.Typer(help="Register, list and remove adapters.", no_args_is_help=True)
DATA_DIR = Path("lorikeet-data")
DataDir = Annotated[
    Path, typer.Option(envvar="LORIKEET_DATA_DIR", help="The data folder that the server was started with.")
]
Url = Annotated[
    str, typer.Option(envvar="LORIKEET_URL", help="A running server; default: who holds the data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    app.add_typer(adapters, name="adapters")


@adapters.command()
def add(
    folder: Annotated[Path, typer.Argument(help="A folder that PEFT saved.")],
    name: Annotated[str, typer.Option(help="The name requests will use.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Give NAME to this adapter even if another one has it now.")
    ] = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
) -> None:
    """Register an adapter, with the running server or in its data folder."""
    with open_desk(url, data_dir, may_make=True) as desk:
        record = desk.add(folder, name, replace)
    typer.echo(f"{record['id']}  rank {record['rank']}  generation {record['generation'][:12]}")
    for warning in record["warnings"]:
        typer.echo(f"warning: {warning}")


@adapters.command("list")
def list_(data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """What is registered, and where it is now.

    The columns: the name requests use, the largest rank of a module, the nearest place of the weights
    (disk, host memory or device memory), what the engine makes of them, their size, and the first
    digits of the generation, which is the SHA-256 of config and weights.
    """
    from rich.console import Console
    from rich.table import Table

    with open_desk(url, data_dir) as desk:
        records = desk.records()
    if as_json:
        typer.echo(json.dumps(records))
        return
    if not records:
        typer.echo("no adapters are registered")
        return
    table = Table("name", "rank", "held on", "state", "bytes", "generation")
    for each in records:
        row = (each["id"], each["rank"], each["tier"], each["state"], each["bytes"], each["generation"][:12])
        table.add_row(*map(str, row))
    Console().print(table)


@adapters.command()
def rm(name: str, data_dir: DataDir = DATA_DIR, url: Url = "") -> None:
    """Remove an adapter; running requests finish first."""
    with open_desk(url, data_dir) as desk:
        freed = desk.remove(name)
    typer.echo(f"{name} removed" + ("" if freed is None else f", {freed} bytes freed"))
