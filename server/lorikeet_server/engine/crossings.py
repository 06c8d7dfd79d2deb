"""How many cases a schema falls into where several of its parts hold at once.

`allOf`, and `anyOf`, `oneOf` or `$ref` beside other keywords, cross the alternatives of their parts
with each other: eight parts of four alternatives are 65,536 cases to the compiler. Here they are
counted, from above, before anything is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lorikeet_server.engine.pointer import Path, parse_pointer, spelled

MOST = 1024


def crossings(root: object) -> list[str]:
    """Reasons why the checked schema `root` has too many cases: none, or where it is first so."""
    try:
        _Count(root).cases(root, ())
    except _TooMany as error:
        return [
            f"{spelled(error.path)}: its parts hold at once and have over {MOST} combinations of alternatives"
        ]
    return []


class _TooMany(Exception):
    def __init__(self, path: Path) -> None:
        self.path = path


class _Count:
    def __init__(self, root: object) -> None:
        self._places = dict(_walk(root, ()))
        self._known: dict[Path, int] = {}

    def cases(self, schema: object, path: Path) -> int:
        """Alternatives anywhere in a schema, MOST + 1 standing for more; a schema within itself counts once."""
        if not isinstance(schema, Mapping):
            return 1
        if path not in self._known:
            self._known[path] = 1  # what a reference back to here finds
            self._known[path] = self._crossed(schema, path)
        return self._known[path]

    def _crossed(self, schema: Mapping[str, Any], path: Path) -> int:
        together: dict[str, list[int]] = {}
        for place, inner in _inside(schema, path):
            key = place[len(path)]
            # Each of allOf's parts is a factor; anyOf and oneOf are one factor each; fields add up.
            factor = "/".join(place[len(path) : len(path) + 2]) if key == "allOf" else key
            factor = factor if key in ("allOf", "anyOf", "oneOf") else "own"
            together.setdefault(factor, []).append(self.cases(inner, place))
        factors = [_sum(name, counts) for name, counts in together.items()]
        target = parse_pointer(str(schema["$ref"])) if "$ref" in schema else None
        if target is not None:
            factors.append(self.cases(self._places.get(target), target))
        product = math.prod(factors)
        if product > MOST and sum(each > 1 for each in factors) > 1:
            raise _TooMany(path)
        return min(product, MOST + 1)


def _sum(factor: str, counts: list[int]) -> int:
    if factor == "own":
        counts = [each for each in counts if each > 1]
    return max(sum(counts), 1)


def _walk(schema: object, path: Path) -> Iterator[tuple[Path, object]]:
    """Every schema of a document with its place, those that are only named included."""
    yield path, schema
    if isinstance(schema, Mapping):
        for place, inner in (*_inside(schema, path), *_defined(schema, path)):
            yield from _walk(inner, place)


def _inside(schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, object]]:
    for key, value in schema.items():
        if key in ("items", "additionalProperties"):
            yield (*path, key), value
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            yield from (((*path, key, str(at)), each) for at, each in enumerate(value))
        elif key in ("properties", "patternProperties"):
            yield from (((*path, key, name), each) for name, each in value.items())


def _defined(schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, object]]:
    for key in ("$defs", "definitions"):
        yield from (((*path, key, name), each) for name, each in schema.get(key, {}).items())
