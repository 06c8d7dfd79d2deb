"""`lorikeet adapters show|history|rollback|pin|alias`: what happens to adapters after they are registered."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from lorikeet_adapters.errors import AliasRefused, GenerationNotFound, RefusedError
from lorikeet_server.desk import Desk, Wire
from lorikeet_server.flags import DATA_DIR, DataDir, Json, Url
from lorikeet_server.reception import open_desk

upkeep = typer.Typer()
GIVING = ("registered", "replaced", "activated", "rolled_back")
SHORT = 12  # characters of a generation in a table
To = Annotated[
    list[str] | None,
    typer.Option("--to", help="NAME, NAME=WEIGHT or NAME@GENERATION=WEIGHT; may be repeated."),
]


@upkeep.command()
def show(name: str, data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """Everything known about one adapter."""
    with open_desk(url, data_dir) as desk:
        record = desk.record(name)
    if as_json:
        typer.echo(json.dumps(record))
        return
    shown = {**record, "ranks": f"{len(record['ranks'])} modules", "created": _moment(record["created"])}
    shown["last_used"] = _moment(record["last_used"])
    rows = [(key, _text(value)) for key, value in shown.items() if key != "object"]
    print_table(("field", "value"), rows)


@upkeep.command()
def history(name: str, data_dir: DataDir = DATA_DIR, url: Url = "", as_json: Json = False) -> None:
    """What happened to a name, the newest first, and which generations it can go back to."""
    with open_desk(url, data_dir) as desk:
        events = desk.history(name)
        kept = {record["id"]: record["generations"] for record in desk.records()}.get(name, [])
    if as_json:
        typer.echo(json.dumps(events))
        return
    places = _places(events, kept)
    rows = [
        (_moment(each["created"]), each["event"], subject(each), place)
        for each, place in zip(events, places, strict=True)
    ]
    print_table(("when", "event", "generation or targets", "now"), rows)


@upkeep.command()
def rollback(
    name: str,
    generation: Annotated[str, typer.Argument(help="Its first digits; default: the next older one.")] = "",
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Make a name mean one of its former generations again."""
    with open_desk(url, data_dir) as desk:
        before = desk.record(name)
        kept = before["generations"]
        wanted = _pick(name, kept, generation) if generation else _older(before, desk.history(name))
        record = desk.activate(name, wanted)
    if as_json:
        typer.echo(json.dumps(record))
    else:
        typer.echo(f"{name}  generation {wanted[:SHORT]}, was {before['generation'][:SHORT]}")


@upkeep.command()
def pin(
    name: str,
    off: Annotated[bool, typer.Option("--off", help="Let it leave the device again.")] = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Keep an adapter on the device, from the start of the server on."""
    with open_desk(url, data_dir) as desk:
        record = desk.pin(name, not off)
    typer.echo(json.dumps(record) if as_json else f"{name}  {'pinned' if record['pinned'] else 'not pinned'}")


@upkeep.command()
def alias(
    name: Annotated[str, typer.Argument(help="The alias; none lists them all.")] = "",
    to: To = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Let a name send requests to adapters, in shares where there are several."""
    if bool(to) + remove != bool(name):  # one of the two with a name, none without
        raise typer.BadParameter("write `alias`, `alias NAME --to ...` or `alias NAME --remove`")
    with open_desk(url, data_dir) as desk:
        answer = _alias(desk, name, to or [])
    if as_json:
        typer.echo(json.dumps(answer))
    elif isinstance(answer, list):
        print_table(("alias", "targets"), [(each["id"], subject(each)) for each in answer])
    else:
        typer.echo(f"{name} removed" if remove else f"{name} -> {subject(answer)}")


def _alias(desk: Desk, name: str, to: list[str]) -> Any:
    if to:
        return desk.put_alias(name, [_target(each, desk) for each in to])
    return desk.delete_alias(name) if name else desk.aliases()


def _target(text: str, desk: Desk) -> dict[str, Any]:
    """`support`, `support=95` or `support@1f2e=5`."""
    named, equals, weight = text.partition("=")
    name, at, digits = named.partition("@")
    try:
        share = float(weight) if equals else 1.0
    except ValueError:
        raise AliasRefused(f"--to {text}: the weight {weight!r} is no number") from None
    generation = _pick(name, desk.record(name)["generations"], digits) if at else None
    return {"name": name, "generation": generation, "weight": share}


def _pick(name: str, generations: list[str], digits: str) -> str:
    """The one generation that starts with these digits."""
    found = [each for each in generations if each.startswith(digits)]
    if not found:
        raise GenerationNotFound(name, digits)
    if len(found) > 1:
        raise RefusedError(
            f"`{name}` has {len(found)} generations that begin with {digits!r}; write more digits"
        )
    return found[0]


def _older(record: Wire, events: list[Wire]) -> str:
    """The generation that came in before the present one: going back twice goes back further.

    `events` are the name's history, the newest first.
    """
    arrived = [each["generation"] for each in events if each["event"] in ("registered", "replaced")]
    own = arrived.index(record["generation"]) if record["generation"] in arrived else len(arrived)
    older = [each for each in arrived[own + 1 :] if each in record["generations"]]
    if not older:
        raise RefusedError(
            f"`{record['id']}` has no generation older than {record['generation'][:SHORT]}; "
            f"`lorikeet adapters history {record['id']}` lists what is kept"
        )
    return str(older[0])


def subject(each: dict[str, Any]) -> str:
    if not each.get("targets"):
        return str(each.get("generation") or "")[:SHORT]
    return ", ".join(
        f"{target['name']}{'@' + target['generation'][:SHORT] if target['generation'] else ''}={target['weight']:g}"
        for target in each["targets"]
    )


def _places(events: list[Wire], kept: list[str]) -> list[str]:
    """What became of each event's generation, told once: beside the last event that gave it to the name."""
    left = dict(zip(kept, ["current"] + ["kept"] * len(kept), strict=False))
    return [left.pop(each["generation"], "") if each["event"] in GIVING else "" for each in events]


def _moment(seconds: int | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_text(each) for each in value)
    return json.dumps(value) if isinstance(value, dict | bool) or value is None else str(value)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
