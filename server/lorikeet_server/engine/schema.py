"""JSON schemas as they are accepted: a list of keywords, each enforced exactly, and bounds on their cost.

What is not on the list is refused by name, because a keyword that is ignored is a promise that is
broken. The bounds keep compilation and masks quick whoever wrote the schema. Pure Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lorikeet_server.engine.crossings import crossings
from lorikeet_server.engine.pointer import Path, parse_pointer, spelled

MAX_BYTES = 65_536
MAX_DEPTH = 32  # schemas within schemas
MAX_SCHEMAS = 2048
MAX_PROPERTIES = 256  # of one object
MAX_VALUES = 1024  # of one enum
MAX_COUNT = 100_000  # characters, items: far more than an answer can have
MAX_NUMBER = 1e15  # up to here every whole number is exact
MAX_PATTERN = 512
MAX_REASONS = 20
DIALECTS = ("draft-07", "draft/2019-09", "draft/2020-12")
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"}
)


class SchemaRefused(ValueError):
    """The schema cannot be enforced as written; each reason begins with its place."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons[:MAX_REASONS]))


def checked_schema(schema: object) -> str:
    """The schema as JSON text, without annotations, its keys in their order. Raises SchemaRefused."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise SchemaRefused(["#: must be a JSON object"])
    check = _Check()
    bare = check.schema(schema, ())
    check.references()
    if not check.reasons:
        check.reasons += crossings(bare)
    if check.reasons:
        raise SchemaRefused(check.reasons)
    try:
        text = json.dumps(bare, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise SchemaRefused(["#: a value in it is no JSON, or is nested too deeply"]) from None
    if len(text.encode()) > MAX_BYTES:
        raise SchemaRefused([f"#: it has over {MAX_BYTES} bytes"])
    return text


@dataclass(slots=True)
class _Check:
    """One walk over a schema, noting where schemas stand and what is wrong with them."""

    reasons: list[str] = field(default_factory=list)
    places: set[Path] = field(default_factory=set)
    referred: list[tuple[Path, str]] = field(default_factory=list)

    def refuse(self, path: Path, reason: str) -> None:
        self.reasons.append(f"{spelled(path)}: {reason}")

    def schema(self, value: object, path: Path, depth: int = 0) -> object:
        """Its bare form; what is refused is noted."""
        self.places.add(path)
        if self._is_too_much(path, depth) or isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            self.refuse(path, "must be a schema, that is an object, true or false")
            return value
        self._dialect(value, path)
        return {
            key: self._keyword(key, each, path, depth)
            for key, each in value.items()
            if key not in ANNOTATIONS and key != "$schema"
        }

    def references(self) -> None:
        """Every $ref leads to a place where a checked schema stands."""
        for path, reference in self.referred:
            target = parse_pointer(reference)
            if target is None:
                self.refuse(path, "only references within the schema are followed, such as #/$defs/name")
            elif target not in self.places:
                self.refuse(path, f"{reference[:80]} is no schema of this document")

    def _is_too_much(self, path: Path, depth: int) -> bool:
        if len(self.places) == MAX_SCHEMAS + 1:
            self.refuse((), f"it has over {MAX_SCHEMAS} schemas inside it")
        if depth > MAX_DEPTH:
            self.refuse(path, f"schemas are nested deeper than {MAX_DEPTH}")
        return depth > MAX_DEPTH or len(self.places) > MAX_SCHEMAS or len(self.reasons) >= MAX_REASONS

    def _dialect(self, schema: Mapping[str, object], path: Path) -> None:
        """It changes nothing of what is accepted, but must be one of which that is true."""
        named = schema.get("$schema", DIALECTS[-1])
        if not (isinstance(named, str) and any(each in named for each in DIALECTS)):
            self.refuse((*path, "$schema"), f"must be one of the dialects {', '.join(DIALECTS)}")

    def _keyword(self, key: str, value: object, path: Path, depth: int) -> object:
        place = (*path, key)
        if key in ("items", "additionalProperties"):
            return self.schema(value, place, depth + 1)
        if key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            if not isinstance(value, list) or not value:
                self.refuse(place, "must be a list of schemas with at least one")
                return value
            return [self.schema(each, (*place, str(at)), depth + 1) for at, each in enumerate(value)]
        if key in ("properties", "patternProperties", "$defs", "definitions"):
            return self._named(value, place, depth)
        if key == "$ref" and isinstance(value, str):
            self.referred.append((place, value))
            return value
        judge = JUDGES.get(key)
        reason = "this keyword is not supported" if judge is None else judge(value)
        if reason:
            self.refuse(place, reason)
        return value

    def _named(self, value: object, place: Path, depth: int) -> object:
        if not isinstance(value, dict):
            self.refuse(place, "must be an object of schemas")
            return value
        if place[-1] in ("properties", "patternProperties") and len(value) > MAX_PROPERTIES:
            self.refuse(place, f"has {len(value)} entries, at most {MAX_PROPERTIES} are taken")
            return value
        if place[-1] == "patternProperties":
            for name in value:
                reason = _pattern(name)
                if reason:
                    self.refuse((*place, name), reason)
        return {name: self.schema(each, (*place, name), depth + 1) for name, each in value.items()}


def _type(value: object) -> str:
    named = value if isinstance(value, list) else [value]
    right = bool(named) and all(isinstance(each, str) and each in TYPES for each in named)
    return "" if right else f"must be one or several of {', '.join(TYPES)}"


def _enum(value: object) -> str:
    right = isinstance(value, list) and 0 < len(value) <= MAX_VALUES
    return "" if right else f"must be a list of 1 to {MAX_VALUES} values"


def _count(value: object) -> str:
    right = type(value) is int and 0 <= value <= MAX_COUNT
    return "" if right else f"must be a whole number from 0 to {MAX_COUNT}"


def _few(value: object) -> str:
    """Names beyond `properties` can come twice, so only an object that is not empty can be promised."""
    return "" if type(value) is int and value in (0, 1) else "can only be 0 or 1"


def _bound(value: object) -> str:
    right = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    return "" if right else f"must be a number between -{MAX_NUMBER:.0e} and {MAX_NUMBER:.0e}"


def _multiple(value: object) -> str:
    is_positive = isinstance(value, int | float) and value > 0
    return _bound(value) or ("" if is_positive else "must be above 0")


def _pattern(value: object) -> str:
    right = isinstance(value, str) and len(value) <= MAX_PATTERN
    return "" if right else f"must be a regular expression of at most {MAX_PATTERN} characters"


def _format(value: object) -> str:
    right = isinstance(value, str) and value in FORMATS
    return "" if right else f"must be one of {', '.join(FORMATS)}"


def _required(value: object) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "" if len(value) <= MAX_PROPERTIES else f"has over {MAX_PROPERTIES} names"
    return "must be a list of names"


def _must_be_text(value: object) -> str:
    return "must be a string"


JUDGES: dict[str, Callable[[object], str]] = {
    "$ref": _must_be_text,
    "type": _type,
    "enum": _enum,
    "const": lambda value: "",
    "required": _required,
    "pattern": _pattern,
    "format": _format,
    "multipleOf": _multiple,
    "minProperties": _few,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "maxProperties"), _count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _bound),
}
