"""The `lorikeet` command. Each package registers its own subcommands; this one adds `serve`."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.errors import LorikeetError
from lorikeet_adapters.quantization import Quantization

# A resident server must not reach out on its own: hub ids are resolved only when the operator names one.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

app = typer.Typer(
    name="lorikeet",
    help="Many LoRA adapters on one resident quantised base model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _env(name: str) -> str:
    return f"LORIKEET_{name}"


@app.callback()
def root() -> None:
    """Serve adapters, blend them per request, train new ones, measure what they cost."""


@app.command()
def serve(
    model: Annotated[
        str, typer.Option(envvar=_env("MODEL"), help="demo, a model folder, or a hub id.")
    ] = "demo",
    served_name: Annotated[
        str,
        typer.Option(envvar=_env("SERVED_NAME"), help="The base's name; default: the last part of --model."),
    ] = "",
    quantization: Annotated[
        Quantization, typer.Option(envvar=_env("QUANTIZATION"), help="How the base is held; auto is nf4.")
    ] = Quantization.AUTO,
    device: Annotated[str, typer.Option(envvar=_env("DEVICE"), help="auto, cpu, cuda or cuda:N.")] = "auto",
    host: Annotated[str, typer.Option(envvar=_env("HOST"), help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar=_env("PORT"), min=0, max=65535, help="Port to listen on.")
    ] = 8000,
    data_dir: Annotated[
        Path, typer.Option(envvar=_env("DATA_DIR"), help="Where registered adapters are kept.")
    ] = Path("lorikeet-data"),
    adapters_root: Annotated[
        Path, typer.Option(envvar=_env("ADAPTERS_ROOT"), help="Local adapters must lie below this folder.")
    ] = Path(),
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER to register at start; may be repeated.")
    ] = None,
    max_slots: Annotated[
        int, typer.Option(envvar=_env("MAX_SLOTS"), min=1, max=1024, help="Requests decoded at once.")
    ] = 16,
    max_model_len: Annotated[
        int,
        typer.Option(
            envvar=_env("MAX_MODEL_LEN"), min=0, help="Longest sequence; 0: what the base was made for."
        ),
    ] = 0,
    rank_rows: Annotated[
        int, typer.Option(envvar=_env("RANK_ROWS"), min=1, help="Sum of ranks held beside the base.")
    ] = 512,
    threads: Annotated[
        int, typer.Option(envvar=_env("THREADS"), min=0, help="Threads of the engine; 0: torch's choice.")
    ] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the base model ships.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Answer any host, without keys, to whoever reaches the port.")
    ] = False,
) -> None:
    """Serve one base model and its adapters over HTTP."""
    from lorikeet_server.config import HttpConfig, ModelConfig, ServerConfig
    from lorikeet_server.engine.config import EngineConfig
    from lorikeet_server.serve import run

    config = ServerConfig(
        ModelConfig(model, served_name, quantization.value, device, trust_remote_code),
        HttpConfig(host, port, insecure),
        EngineConfig(max_slots, max_model_len, rank_rows, threads=threads),
        data_dir,
        adapters_root,
        tuple(adapter or ()),
    )
    run(config)


def main() -> None:
    """Entry point: one line of reason on standard error and exit code 1 for what is refused."""
    for entry in sorted(entry_points(group="lorikeet.commands"), key=lambda each: each.name):
        entry.load()(app)
    try:
        app()
    except LorikeetError as error:
        print(f"lorikeet: {error}", file=sys.stderr)
        sys.exit(1)
