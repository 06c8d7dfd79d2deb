"""JSON lines -> objects, each with its line number; what cannot be read becomes a finding."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn

from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.finding import MOST_SHOWN, RowFinding

MOST_LINE = 16 << 20  # bytes; as Python's values a line takes ten times its size
WHOLE = "write one whole JSON object per line"
ARRAY = "write one JSON object per line, not one array; `lorikeet data convert` reads arrays too"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in the file. `line` counts from 1."""

    line: int
    value: dict[str, object]


def read_file(path: Path) -> bytes:
    """Raises DatasetRefused; what is said of the file names no folder."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DatasetRefused:
    """The refusal of a file that cannot be opened at all."""
    finding = RowFinding(0, "", "cannot_read", error.strerror or str(error), "name a readable file")
    return DatasetRefused(path.name, [finding])


def parse_jsonl(data: bytes) -> Iterator[Record | RowFinding]:
    """One value for each line that is not blank: the row, or why it cannot be read."""
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    for line in count(1):
        end = data.find(b"\n", start)
        stop = len(data) if end < 0 else end
        if stop - start > MOST_LINE:
            message = f"the line has {stop - start:,} bytes, the most is {MOST_LINE:,}"
            yield RowFinding(line, "", "line_too_long", message, WHOLE)
        elif (raw := data[start:stop]).strip():
            yield parse_line(line, raw)
        if end < 0:
            return
        start = end + 1


def parse_array(data: bytes) -> list[Record | RowFinding]:
    """The same for a file that is one JSON array; a row's `line` is its number in it."""
    rows = _value(0, data.removeprefix(codecs.BOM_UTF8))
    if isinstance(rows, RowFinding):
        return [rows]
    return [
        _row(number, row) for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1)
    ]


def parse_line(line: int, raw: bytes) -> Record | RowFinding:
    value = _value(line, raw)
    return value if isinstance(value, RowFinding) else _row(line, value)


def _row(line: int, value: object) -> Record | RowFinding:
    if isinstance(value, dict):
        return Record(line, value)
    message = f"the row is {_kind(value)}, not an object"
    return RowFinding(line, "", "not_an_object", message, ARRAY if isinstance(value, list) else WHOLE)


def _value(line: int, raw: bytes) -> object:
    """What the bytes say, or a RowFinding."""
    try:
        return json.loads(
            raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except UnicodeDecodeError as error:
        message = f"byte {error.start + 1} is not UTF-8"
        return RowFinding(line, "", "not_utf8", message, "save the file as UTF-8")
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if line else f"line {error.lineno}, column {error.colno}"
        is_array = line == 1 and raw.startswith(b"[")
        message = f"not JSON at {where}: {error.msg}"
        return RowFinding(line, "", "not_json", message, ARRAY if is_array else WHOLE)
    except _BadValue as error:
        return RowFinding(line, "", error.code, str(error), error.fix)
    except (RecursionError, ValueError) as error:  # an integer of thousands of digits is a ValueError
        deep = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        return RowFinding(line, "", "not_json", deep, WHOLE)


class _BadValue(ValueError):
    """JSON that Python reads although it says nothing definite."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        self.code = code
        self.fix = fix
        super().__init__(message)


def _refuse_constant(name: str) -> NoReturn:
    raise _BadValue("not_a_number", f"{name} is no JSON value", "write a number, or null")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in counts if counts[key] > 1)[:MOST_SHOWN]
        raise _BadValue("duplicate_key", f"the key {twice!r} stands twice in one object", "keep one of them")
    return value


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
