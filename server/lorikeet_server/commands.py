"""`lorikeet adapters`: register, list and remove, through a running server or on its data folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lorikeet_adapters.errors import RefusedError

adapters = typer.Typer(help="Register, list and remove adapters.", no_args_is_help=True)
DataDir = Annotated[Path, typer.Option(envvar="LORIKEET_DATA_DIR", help="The server's data folder.")]
Url = Annotated[
    str, typer.Option(envvar="LORIKEET_URL", help="A running server; default: who holds the data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    app.add_typer(adapters, name="adapters")


@adapters.command()
def add(
    folder: Annotated[Path, typer.Argument(help="A PEFT folder.")],
    name: Annotated[str, typer.Option(help="The name requests will use.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace other bytes under this name.")] = False,
    data_dir: DataDir = Path("lorikeet-data"),
    url: Url = "",
) -> None:
    """Register an adapter with the running server."""
    body = {
        "name": name,
        "source": {"type": "local", "path": str(folder.resolve())},
        "replace": replace,
    }
    record = call("POST", server_url(url, data_dir), "/v1/adapters", body)
    typer.echo(f"{record['id']}  rank {record['rank']}  generation {record['generation'][:12]}")


@adapters.command("list")
def list_(data_dir: DataDir = Path("lorikeet-data"), url: Url = "", as_json: Json = False) -> None:
    """What is registered, and where it is now."""
    from rich.console import Console
    from rich.table import Table

    listing = call("GET", server_url(url, data_dir), "/v1/adapters")
    if as_json:
        typer.echo(json.dumps(listing))
        return
    table = Table("name", "rank", "tier", "state", "bytes", "generation")
    for each in listing["data"]:
        row = (each["id"], each["rank"], each["tier"], each["state"], each["bytes"], each["generation"][:12])
        table.add_row(*map(str, row))
    Console().print(table)


@adapters.command()
def rm(name: str, data_dir: DataDir = Path("lorikeet-data"), url: Url = "") -> None:
    """Remove an adapter; running requests finish first."""
    from urllib.parse import quote

    answer = call("DELETE", server_url(url, data_dir), f"/v1/adapters/{quote(name)}")
    freed = answer["freed_bytes"]
    typer.echo(f"{name} removed" + ("" if freed is None else f", {freed} bytes freed"))


def server_url(url: str, data_dir: Path) -> str:
    """The server named, or the one that holds the data folder. Raises RefusedError when there is none."""
    from lorikeet_adapters.store import holder_url

    found = url or holder_url(data_dir)
    if not found:
        raise RefusedError(
            f"no server holds {data_dir}; start one with `lorikeet serve`, or name it with --url"
        )
    return found.rstrip("/")


def call(method: str, url: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One JSON request; an error answer becomes RefusedError with the server's own message."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    data = None if body is None else json.dumps(body).encode()
    request = Request(url + path, data, {"content-type": "application/json"}, method=method)
    try:
        with urlopen(request, timeout=120) as response:
            answer: dict[str, Any] = json.load(response)
    except HTTPError as error:
        raise RefusedError(_reason(error.read(), error.code)) from error
    except (URLError, OSError, ValueError) as error:
        raise RefusedError(f"cannot reach a server at {url}: {getattr(error, 'reason', error)}") from error
    return answer


def _reason(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"
