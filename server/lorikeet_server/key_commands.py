"""`lorikeet keys`: make API keys, list them, remove them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_server.flags import Json
from lorikeet_server.keyring import add_key, read_keys, remove_key

keys = typer.Typer(
    help="Make, list and remove the keys of `lorikeet serve --api-keys`.", no_args_is_help=True
)
File = Annotated[Path, typer.Option("--file", envvar="LORIKEET_API_KEYS", help="The keys file.")]
KEYS_FILE = Path("keys.toml")


@keys.command()
def new(
    scopes: Annotated[
        str, typer.Option(help="Some of generate, admin and metrics, with commas.")
    ] = "generate",
    name: Annotated[
        str, typer.Option(help="What the access log calls it; default: its tenant and a number.")
    ] = "",
    tenant: Annotated[str, typer.Option(help="Whose key it is; default: the operator's own.")] = "",
    file: File = KEYS_FILE,
) -> None:
    """Make a key and print it: only its hash is kept, so it cannot be shown again."""
    typer.echo(add_key(file, name or None, [each.strip() for each in scopes.split(",")], tenant or None))


@keys.command("list")
def list_(file: File = KEYS_FILE, as_json: Json = False) -> None:
    """Names, tenants and scopes."""
    from rich.console import Console
    from rich.table import Table

    rows = [
        {"name": each.name, "tenant": each.tenant, "scopes": sorted(each.scopes)} for each in read_keys(file)
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("name", "tenant", "scopes")
    for each in read_keys(file):
        table.add_row(each.name, each.tenant or "(operator)", ", ".join(sorted(each.scopes)))
    Console().print(table)


@keys.command()
def rm(name: str, file: File = KEYS_FILE) -> None:
    """Remove a key; a running server notices within a second."""
    remove_key(file, name)
    typer.echo(f"{name} removed")
