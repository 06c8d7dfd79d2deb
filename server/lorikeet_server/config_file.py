"""`--config FILE` and `--print-config`: the flags as TOML, read and written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field
from enum import Enum
from pathlib import Path
from typing import Any

import typer

Option = tuple[str, Field[Any], Any]  # the parameter's name, its field, its type


def read(path: Path, options: Iterable[Option]) -> dict[str, Any]:
    """Parameter name -> value of each key in the file at `path`; bounds are the parser's to check.

    Raises typer.BadParameter for a file that is not TOML, and for a key that is no flag or of another type.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not TOML: {error}") from error
    kinds = {_key(name): (name, each, kind) for name, each, kind in options}
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key not in kinds:
            raise typer.BadParameter(f"{path} has the key `{key}`, which is no flag without its dashes")
        name, each, kind = kinds[key]
        if wanted := _mistake(value, each, kind):
            raise typer.BadParameter(f"`{key}` of {path} is {json.dumps(value, default=str)}, not {wanted}")
        values[name] = value
    return values


def _mistake(value: object, each: Field[Any], kind: Any) -> str:
    """What `value` should have been; empty if it is. The parser itself would take `true` for the number 1."""
    if isinstance(each.default, tuple):
        right = isinstance(value, list) and all(isinstance(part, str) for part in value)
        return "" if right else "a list of strings"
    if kind in (bool, int):
        return "" if type(value) is kind else {bool: "true or false", int: "a whole number"}[kind]
    return "" if isinstance(value, str) else "a string"


def write(values: Mapping[str, object]) -> Iterator[str]:
    """The lines of a file that gives these parameters these values."""
    for name, value in values.items():
        yield f"{_key(name)} = {_literal(value)}"


def _key(name: str) -> str:
    return name.replace("_", "-")


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Path):
        value = str(value)
    # JSON's strings, numbers and booleans are TOML's, but for one character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
