"""The `lorikeet` command. Each package registers its own subcommands; this one adds `serve`."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from lorikeet_adapters.errors import LorikeetError
from lorikeet_server import STARTED
from lorikeet_server.config import ServerConfig
from lorikeet_server.job_commands import jobs
from lorikeet_server.key_commands import keys
from lorikeet_server.options import command


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lorikeet {version('lorikeet')}")
        raise typer.Exit


def lorikeet(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Many LoRA adapters on one resident quantised base model."""


def serve(config: ServerConfig) -> None:
    """Serve one base model and its adapters over HTTP."""
    from lorikeet_server.serve import run  # `--help` does without it

    run(config, STARTED)


def make_app() -> typer.Typer:
    """Every subcommand that is installed."""
    app = typer.Typer(
        name="lorikeet", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(lorikeet)
    app.command("serve")(command(ServerConfig, serve))
    app.add_typer(keys, name="keys")
    app.add_typer(jobs, name="jobs")
    for entry in sorted(entry_points(group="lorikeet.commands"), key=lambda each: each.name):
        entry.load()(app)
    return app


def main() -> None:
    """Entry point: one line of reason on standard error and exit code 1 for what is refused."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        make_app()()
    except LorikeetError as error:
        print(f"lorikeet: {error}", file=sys.stderr)
        sys.exit(1)
