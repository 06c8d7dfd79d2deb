"""`lorikeet adapters`: register, check, convert, list and remove; the rest stands in upkeep.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.finding import Finding, grouped
from lorikeet_server.composing import composing
from lorikeet_server.desk import Place, Wire
from lorikeet_server.flags import DATA_DIR, DataDir, Json, Url
from lorikeet_server.reception import open_desk, open_trial_desk
from lorikeet_server.upkeep import SHORT, print_table, subject, upkeep

adapters = typer.Typer(help="Register, check, convert, list and remove adapters.", no_args_is_help=True)
adapters.add_typer(upkeep)
adapters.add_typer(composing)
Source = Annotated[
    str, typer.Argument(metavar="FOLDER|REPO", help="A folder that PEFT saved, or org/name on the hub.")
]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit on the hub.")]


def register(app: typer.Typer) -> None:
    app.add_typer(adapters, name="adapters")


@adapters.command()
def add(
    source: Source,
    name: Annotated[str, typer.Option(help="The name requests will use.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Give NAME to this adapter even if another one has it now.")
    ] = False,
    revision: Revision = "main",
    tenant: Annotated[
        list[str] | None, typer.Option(help="Private to this tenant; may be repeated, `*` is everyone.")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
) -> None:
    """Register an adapter, with the running server or in its data folder."""
    with open_desk(url, data_dir, may_make=True) as desk:
        record = desk.add(Place(source, revision), name, replace, tenant or [])
    typer.echo(f"{record['id']}  rank {record['rank']}  generation {record['generation'][:12]}")
    _print_warnings(record["warnings"])


@adapters.command()
def check(
    source: Source,
    revision: Revision = "main",
    model: Annotated[str, typer.Option(help="The base to check against; default: the one last served.")] = "",
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Would it load, and if not, every reason why. Changes nothing.

    What is wrong alike in many modules is one line with an example; --json has each by itself.
    """
    from rich.console import Console
    from rich.table import Column, Table

    with open_trial_desk(model, url, data_dir) as desk:
        verdict = desk.check(Place(source, revision))
    findings = [Finding(**each) for each in verdict["findings"]]
    if as_json:
        typer.echo(json.dumps(verdict))
    elif findings:
        table = Table(*(Column(each, overflow="fold") for each in ("code", "where", "what", "what to do")))
        for each, more in grouped(findings):
            what = f"{each.message}, and {more} more like it" if more else each.message
            table.add_row(*map(_plain, (each.code, each.module or each.field, what, each.fix)))
        Console().print(table)
    else:
        typer.echo(f"{source} would load")
        _print_warnings(verdict.get("warnings", ()))  # an older server tells none
    if findings:
        count = len(findings)
        raise RefusedError(f"{source} would not load: {count} {'reason' if count == 1 else 'reasons'}")


@adapters.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="A folder with adapter_model.bin, from a source you trust.")],
    output: Annotated[
        Path | None, typer.Option(help="A new folder to write; default: FOLDER itself.")
    ] = None,
) -> None:
    """Turn a pickle of tensors into safetensors, offline and in a process of its own."""
    from lorikeet_adapters.convert import convert as convert_pickle

    done = convert_pickle(folder, output)
    typer.echo(f"{done.path}  {done.tensors} tensors  {done.bytes} bytes")


@adapters.command("list")
def list_(data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """What is registered, and where it is now.

    The columns: the name requests use, the largest rank of a module, the nearest place of the weights
    (disk, host memory or device memory), what the engine makes of them, their size, and the first
    digits of the generation, which is the SHA-256 of config and weights. Then the aliases.
    """
    with open_desk(url, data_dir) as desk:
        records, aliases = desk.records(), desk.aliases()
    if as_json:
        typer.echo(json.dumps(records))
        return
    if not records:
        typer.echo("no adapters are registered")
        return
    columns = ("name", "rank", "held on", "state", "pinned", "bytes", "generation")
    print_table(columns, [_row(each) for each in records])
    if aliases:
        print_table(("alias", "targets"), [(each["id"], subject(each)) for each in aliases])


@adapters.command()
def rm(name: str, data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """Remove an adapter; running requests finish first."""
    with open_desk(url, data_dir) as desk:
        answer = desk.remove(name)
    freed = ", ".join(f"{size} on {where}" for where, size in answer["freed"].items() if size is not None)
    typer.echo(json.dumps(answer) if as_json else f"{name} removed, bytes freed: {freed}")


def _row(record: Wire) -> tuple[str, ...]:
    held = (str(record["rank"]), record["tier"], record["state"], "yes" if record["pinned"] else "")
    return (record["id"], *held, str(record["bytes"]), record["generation"][:SHORT])


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning}")


def _plain(text: str) -> str:
    """Names out of a file may hold what a terminal or a table would obey."""
    from rich.markup import escape

    return escape("".join(each if each.isprintable() else ascii(each)[1:-1] for each in text))
