"""From the bytes of a request to a checked value, with every reason at once when it cannot be one."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema
from starlette.requests import Request

from lorikeet_server.errors import BodyTooLarge, RequestRefused

B = TypeVar("B", bound="Body")
MAX_REASONS = 20
MAX_DEPTH = 64


class Body(BaseModel):
    """Base of every wire type: an unknown field with a value is refused, never ignored.

    `NEUTRAL` lists fields that are not built, with the value that asks for nothing; `NO_EFFECT`
    lists fields that are accepted whatever they hold. A null counts as absent everywhere.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {}
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset()
    KINDS: ClassVar[frozenset[str]] = (
        frozenset()
    )  # which member of a union was meant; no part of a field's place

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The document says what the validators below let pass: neutral values, fields without effect, nulls."""
        made = handler(core)
        schema = handler.resolve_ref_schema(made)
        properties = schema.setdefault("properties", {})
        for key, values in cls.NEUTRAL.items():
            if key not in properties:
                properties[key] = {
                    "enum": list(values),
                    "description": "Only the value that asks for nothing.",
                }
        for key in sorted(cls.NO_EFFECT):
            properties[key] = {"description": "Accepted without effect."}
        for key, each in properties.items():
            if key not in schema.get("required", ()) and {"type": "null"} not in each.get("anyOf", ()):
                properties[key] = {"anyOf": [each, {"type": "null"}]}
        return made

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if not cls._asks_for_nothing(key, value)}

    @classmethod
    def _asks_for_nothing(cls, key: str, value: object) -> bool:
        neutral = cls.NEUTRAL.get(key, ())
        return value is None or key in cls.NO_EFFECT or any(_same(value, each) for each in neutral)

    @classmethod
    def parse(cls, data: object) -> Self:
        """Raises RequestRefused naming every field that is wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            reasons = [_reason(each, cls.KINDS) for each in error.errors(include_url=False)[:MAX_REASONS]]
            message = "; ".join(f"{param}: {text}" if param else text for param, text in reasons)
            raise RequestRefused(message, param=reasons[0][0] or None) from None


async def read_json(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body as a JSON object. Raises BodyTooLarge or RequestRefused."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > max_bytes:
            raise BodyTooLarge(f"the body is over {max_bytes} bytes")
    return parse_json(bytes(raw))


def parse_json(raw: bytes) -> dict[str, Any]:
    """The body as an object of strict JSON. Raises RequestRefused."""
    value = parse_value(raw, "the body")
    if not isinstance(value, dict):
        raise RequestRefused("the body must be a JSON object")
    return value


def parse_value(raw: bytes, what: str) -> object:
    """Strict JSON: no NaN, Infinity or number beyond a float, no lone surrogates, no key twice. `what` is its name in messages."""
    try:
        value: object = json.loads(
            raw.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique
        )
        json.dumps(value, ensure_ascii=False).encode()  # fails on a lone surrogate
    except UnicodeError:
        raise RequestRefused(f"{what} is not valid UTF-8 text") from None
    except RecursionError:
        raise RequestRefused(f"{what} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise RequestRefused(f"{what} is not valid JSON: {error}") from None
    except ValueError:  # Python's own bound on integers
        raise RequestRefused(f"{what} has a number of too many digits") from None
    if _deeper_than(value, MAX_DEPTH):
        raise RequestRefused(f"{what} is nested deeper than {MAX_DEPTH} levels")
    return value


async def read_body(request: Request, kind: type[B]) -> B:
    """Read, parse and check in one call; the limit is the application's."""
    return kind.parse(await read_json(request, request.app.state.services.http.max_body_bytes))


def _no_constant(name: str) -> NoReturn:
    raise RequestRefused(f"the body is not valid JSON: {name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RequestRefused(f"the number {text[:20]} in the body is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RequestRefused("an object in the body has the same key twice")
    return made


def _deeper_than(value: object, depth: int) -> bool:
    """Level by level, not by recursion: what is stored must also be writable again, from any call depth."""
    level: list[object] = [value]
    for _ in range(depth):
        level = [inner for each in level for inner in _inside(each)]
    return any(isinstance(each, dict | list) for each in level)


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _same(value: object, neutral: object) -> bool:
    """Equal as JSON: to Python, true is also 1 and false is also 0."""
    return isinstance(value, bool) is isinstance(neutral, bool) and value == neutral


def _reason(error: Any, kinds: frozenset[str]) -> tuple[str, str]:
    place = [str(part) for part in error["loc"] if part not in kinds]
    if error["type"].startswith("union_tag"):
        place.append(error["ctx"]["discriminator"].strip("'"))
    param = ".".join(place)
    if error["type"] == "extra_forbidden":
        return param, "this field is not supported"
    text = str(error["msg"])
    return param, text[:1].lower() + text[1:]
