"""The arguments of a Serve configuration, read and checked as the flags of `lorikeet serve` are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from lorikeet_adapters.errors import RefusedError
from lorikeet_server import config_file
from lorikeet_server.checks import check_all
from lorikeet_server.config import Console, ServerConfig
from lorikeet_server.options import command

NOT_HERE = {
    "host": "where to listen is the configuration's http_options",
    "port": "where to listen is the configuration's http_options",
    "adapter": "register adapters over HTTP",
    "ray-address": "the cluster is the one that this is deployed to",
    "make-key": "make keys with `lorikeet keys new`",
}


def read_arguments(args: Mapping[str, Any]) -> ServerConfig:
    """Raises RefusedError naming the argument.

    Ray's proxies listen where `http_options` say, which is not known here: without keys only the machine
    itself is answered, and the console is off unless it is asked for.
    """
    for name, why in NOT_HERE.items():
        if name in args:
            raise RefusedError(f"`{name}` means nothing here: {why}")
    if nothing := [name for name, value in args.items() if value is None]:
        raise RefusedError(f"`{nothing[0]}` has no value; leave it out")
    config = _parsed({**args, "ray": True})
    console = Console.OFF if config.http.console is Console.AUTO else config.http.console
    config = replace(config, http=replace(config.http, console=console))
    check_all(config)
    return rooted(config, None)


def rooted(config: ServerConfig, here: Path | None) -> ServerConfig:
    """Its paths made absolute, as processes of a cluster work elsewhere. Raises RefusedError without a `here` to begin at."""

    def absolute(path: Path, name: str) -> Path:
        if here is None and not path.is_absolute():
            raise RefusedError(
                f"`{name}` is {path}, which means another folder on each machine; write all of it"
            )
        return path if here is None else here / path

    data_dir = absolute(config.data_dir, "data-dir")
    keys = str(absolute(Path(config.http.api_keys), "api-keys")) if config.http.api_keys else ""
    unsaid = config.adapters_root == Path()
    root = (
        data_dir / "adapters" if unsaid and here is None else absolute(config.adapters_root, "adapters-root")
    )
    source = config.model.source
    if here is not None and (here / source).is_dir():
        source = str(here / source)
    return replace(
        config,
        data_dir=data_dir,
        adapters_root=root,
        http=replace(config.http, api_keys=keys),
        model=replace(config.model, source=source, served_name=config.model.served_name),
    )


def _parsed(args: Mapping[str, Any]) -> ServerConfig:
    """By the parser of the command line, from a file as `--config` takes it."""
    found: list[ServerConfig] = []
    parser = typer.Typer(add_completion=False)
    parser.command()(command(ServerConfig, found.append))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "arguments.toml"
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}
        file.write_text("\n".join(config_file.write(values)), "utf-8")
        try:
            parser(["--config", str(file)], standalone_mode=False)
        except typer.BadParameter as error:
            raise RefusedError(error.format_message()) from None
    return found[0]
