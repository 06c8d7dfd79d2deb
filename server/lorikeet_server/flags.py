"""Options that every `lorikeet adapters` command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA_DIR = Path("lorikeet-data")
DataDir = Annotated[
    Path, typer.Option(envvar="LORIKEET_DATA_DIR", help="The data folder that the server was started with.")
]
Url = Annotated[
    str, typer.Option(envvar="LORIKEET_URL", help="A running server; default: who holds the data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
