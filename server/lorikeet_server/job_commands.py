"""`lorikeet jobs`: fine-tuning jobs of a running server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from lorikeet_server.flags import DATA_DIR, DataDir, Json, Url
from lorikeet_server.job_desk import open_job_desk

jobs = typer.Typer(help="List, follow, pause and cancel fine-tuning jobs.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `lorikeet jobs list` shows it.")]


@jobs.command("list")
def list_(data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """Every job, the newest first."""
    found = open_job_desk(url, data_dir).jobs()
    if as_json:
        typer.echo(json.dumps(found))
    elif not found:
        typer.echo("there are no jobs")
    else:
        rows = [(each["id"], each["status"], _place(each), each["fine_tuned_model"] or "") for each in found]
        _print_table(("job", "status", "phase", "model"), rows)


@jobs.command()
def show(job: JobId, data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """Everything known about one, and its checkpoints."""
    desk = open_job_desk(url, data_dir)
    found, checkpoints = desk.job(job), desk.checkpoints(job)
    if as_json:
        typer.echo(json.dumps({**found, "checkpoints": checkpoints}))
        return
    times = {key: _moment(found[key]) for key in ("created_at", "finished_at")}
    shown = {**found, **times, **found["x_lorikeet"]}
    rows = [(key, _text(value)) for key, value in shown.items() if key not in ("object", "x_lorikeet")]
    rows += [("checkpoint", each["fine_tuned_model_checkpoint"]) for each in checkpoints]
    _print_table(("field", "value"), rows)


@jobs.command()
def events(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job is over.")] = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """What happened to a job, the oldest first. With --json one object a line."""
    desk = open_job_desk(url, data_dir)
    for each in desk.follow(job) if follow else desk.events(job):
        words = f"{_moment(each['created_at'])}  {each['level']:5}  {_printable(each['message'])}"
        typer.echo(json.dumps(each) if as_json else words)


@jobs.command()
def cancel(job: JobId, data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """End a job; its checkpoints stay."""
    _say(open_job_desk(url, data_dir).change(job, "cancel"), as_json)


@jobs.command()
def pause(job: JobId, data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """Have a job write a checkpoint and give the machine back."""
    _say(open_job_desk(url, data_dir).change(job, "pause"), as_json)


@jobs.command()
def resume(job: JobId, data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """Go on from where a paused job stopped."""
    _say(open_job_desk(url, data_dir).change(job, "resume"), as_json)


def _say(job: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(job) if as_json else f"{job['id']}  {job['status']}  {_place(job)}")


def _place(job: dict[str, Any]) -> str:
    ours = job["x_lorikeet"]
    steps = f" {ours['step']}/{ours['total_steps']}" if ours["total_steps"] else ""
    return f"{ours['phase']}{steps}"


def _moment(seconds: int | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")


def _text(value: object) -> str:
    return _printable(value if isinstance(value, str) else json.dumps(value))


def _printable(text: str) -> str:
    """Words out of a file may hold what a terminal would obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
