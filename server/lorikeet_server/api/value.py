"""Strict JSON as a value of bounded size: what a few megabytes of brackets could cost is refused as it is read."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from lorikeet_server.errors import RequestRefused

MAX_DEPTH = 64
MAX_VALUES = 16_384  # 1024 messages of four parts each, and then some; token ids do not count
STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"?', re.DOTALL)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(raw: bytes) -> dict[str, Any]:
    """The body as an object of strict JSON. Raises RequestRefused."""
    value = parse_value(raw, "the body")
    if not isinstance(value, dict):
        raise RequestRefused("the body must be a JSON object")
    return value


def parse_value(raw: bytes, what: str) -> object:
    """Strict JSON: no NaN, Infinity or number beyond a float, no lone surrogates, no key twice. `what` is its name in messages.

    Every value may be wrong, and pydantic makes a reason of each before one can be told: so there are at
    most MAX_VALUES, whole numbers in lists aside.
    """
    _preview(raw, what)
    reader = _Reader(what)
    try:
        value: object = json.loads(
            raw.decode(),
            parse_constant=reader.constant,
            parse_float=reader.real,
            object_pairs_hook=reader.members,
        )
        if SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()  # fails on a lone one
    except UnicodeError:
        raise RequestRefused(f"{what} is not valid UTF-8 text") from None
    except RecursionError:
        raise RequestRefused(f"{what} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise RequestRefused(f"{what} is not valid JSON: {error}") from None
    except ValueError:  # Python's own bound on integers
        raise RequestRefused(f"{what} has a number of too many digits") from None
    _measure(value, what)
    return value


class _Reader:
    """What is called for each object and number that is not whole."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._reals = 0

    def constant(self, name: str) -> NoReturn:
        raise RequestRefused(f"the body is not valid JSON: {name} is no JSON number")

    def real(self, text: str) -> float:
        self._reals += 1
        _bound(self._reals, self._what)
        value = float(text)
        if not math.isfinite(value):
            raise RequestRefused(f"the number {text[:20]} in the body is too large")
        return value

    def members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise RequestRefused("an object in the body has the same key twice")
        return made


def _preview(raw: bytes, what: str) -> None:
    """The marks outside of strings tell what is too much before a million lists are made of it."""
    if len(raw) > MAX_VALUES:
        marks = STRING.sub(b"", raw)
        _bound(marks.count(b"[") + marks.count(b"{") - 1, what)  # the outermost is in nothing
        _bound(marks.count(b":"), what)


def _measure(value: object, what: str) -> None:
    """Level by level, not by recursion: what is stored must also be writable again, from any call depth."""
    level, values = [value], 0
    for _ in range(MAX_DEPTH):
        inside: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inside += each.values()
            elif isinstance(each, list):
                inside += [item for item in each if type(item) is not int]
        values += len(inside)
        _bound(values, what)
        level = inside
    if any(isinstance(each, dict | list) for each in level):
        raise RequestRefused(f"{what} is nested deeper than {MAX_DEPTH} levels")


def _bound(values: int, what: str) -> None:
    if values > MAX_VALUES:
        raise RequestRefused(f"{what} has more than {MAX_VALUES} values, token ids aside; send less at once")
