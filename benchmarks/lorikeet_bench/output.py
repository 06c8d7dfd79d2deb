"""How every benchmark ends: a table for people, then one JSON document as the last line for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lorikeet_bench.plan import PlanRefused

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress


def check_out(out: Path | None) -> None:
    """Before anything is measured. Raises PlanRefused."""
    if out is not None and not out.parent.is_dir():
        raise PlanRefused(f"--out is {str(out)!r}, but its folder does not exist")


def progress_bar() -> Progress:
    """On standard error, gone when it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def finish(document: dict[str, Any], table: RenderableType, out: Path | None) -> None:
    """Write the file, if one was named, then print."""
    from rich.console import Console

    if out is not None:
        out.write_text(json.dumps(document, indent=2) + "\n")
    Console().print(table)
    typer.echo(json.dumps(document))
