"""Flags, environment variables, a file's keys and help, made from the fields of the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from lorikeet_server import config_file

T = TypeVar("T")
PREFIX = "LORIKEET_"


def option(default: T, help: str, *, flag: str = "", least: int | None = None, most: int | None = None) -> T:
    """A dataclass field that is also a flag, named after the field unless `flag` says otherwise."""
    made: T = field(default=default, metadata={"help": help, "flag": flag, "least": least, "most": most})
    return made


def options_of(config: type[Any]) -> Iterator[tuple[str, Field[Any], Any]]:
    """(parameter name, field, type) of every option, sections first, as they stand in the help."""
    types = get_type_hints(config)
    for each in fields(config):
        if is_dataclass(types[each.name]):
            yield from options_of(types[each.name])
        elif "help" in each.metadata:
            yield each.metadata["flag"] or each.name, each, types[each.name]


def build(config: type[T], values: dict[str, Any]) -> T:
    """The configuration that these parameter values mean; sections are built the same way."""
    types = get_type_hints(config)
    given: dict[str, Any] = {}
    for each in fields(config):  # type: ignore[arg-type]  # T is a dataclass; its bound cannot be written
        if is_dataclass(types[each.name]):
            given[each.name] = build(types[each.name], values)
        elif "help" in each.metadata:
            value = values[each.metadata["flag"] or each.name]
            given[each.name] = tuple(value or ()) if isinstance(each.default, tuple) else value
    return config(**given)


def values_of(config: Any) -> dict[str, Any]:
    """Parameter name -> value: what `build` would make `config` of."""
    types = get_type_hints(type(config))
    values: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(types[each.name]):
            values |= values_of(value)
        elif "help" in each.metadata:
            values[each.metadata["flag"] or each.name] = value
    return values


def command(config: type[T], run: Callable[[T], None]) -> Callable[..., None]:
    """A function Typer can register: one keyword per option, calling `run` with the configuration.

    A flag wins over the environment, that over the file of `--config`. `--print-config` prints instead of running;
    nothing it prints is secret, as keys are in a file of their own.
    """

    def call(print_config: bool, **values: Any) -> None:
        del values["config"]
        made = build(config, values)
        if print_config:
            typer.echo("\n".join(config_file.write(values_of(made))))
        else:
            run(made)

    parameters = [_parameter(name, each, kind) for name, each, kind in options_of(config)]
    parameters += _file_parameters(config)
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__doc__ = run.__doc__
    return call


def _file_parameters(config: type[Any]) -> list[inspect.Parameter]:
    def adopt(context: typer.Context, path: Path | None) -> None:
        if path is not None:
            context.default_map = config_file.read(path, options_of(config))

    file = typer.Option(
        "--config",
        help="TOML file of flags.",
        envvar=f"{PREFIX}CONFIG",
        callback=adopt,
        is_eager=True,
    )
    show = typer.Option("--print-config", help="Print the flags as such a file, and end.")
    word = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter("config", word, default=None, annotation=Annotated[Path | None, file]),
        inspect.Parameter("print_config", word, default=False, annotation=Annotated[bool, show]),
    ]


def _parameter(name: str, each: Field[Any], kind: Any) -> inspect.Parameter:
    meta = each.metadata
    flag = "--" + name.replace("_", "-")
    settings: dict[str, Any] = {"help": meta["help"]}
    many = isinstance(each.default, tuple)
    if not many:
        settings["envvar"] = PREFIX + name.upper()
    if kind is int:
        settings |= {"min": meta["least"], "max": meta["most"]}
    if many:
        kind = list[str] | None
    default = None if many else each.default
    annotation = Annotated[kind, typer.Option(flag, **settings)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=_plain(default), annotation=annotation
    )


def _plain(default: object) -> object:
    return default.value if isinstance(default, Enum) else default
