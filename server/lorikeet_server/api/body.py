"""From the bytes of a request to a checked value, with every reason at once when it cannot be one."""

from __future__ import annotations

from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema
from starlette.requests import Request

from lorikeet_server.api.backstage import apart
from lorikeet_server.api.value import parse_json
from lorikeet_server.errors import BodyTooLarge, RequestRefused

B = TypeVar("B", bound="Body")
MAX_REASONS = 20
MANY = 1024  # items of a list that whoever works with it bounds more closely, and in better words
SMALL = 64 << 10  # bytes that are parsed and checked where they came in: in a millisecond or two


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
        schema["additionalProperties"] = {"type": "null"}  # absent, whatever its name
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


async def read_body(request: Request, kind: type[B]) -> B:
    """Read, parse and check in one call; the limit is the application's. Raises BodyTooLarge or RequestRefused."""
    raw = await _read(request, request.app.state.services.http.max_body_bytes)
    if len(raw) <= SMALL:
        return kind.parse(parse_json(raw))
    return await apart(request, lambda: kind.parse(parse_json(raw)))


async def _read(request: Request, max_bytes: int) -> bytes:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > max_bytes:
            raise BodyTooLarge(f"the body is over {max_bytes} bytes")
    return bytes(raw)


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
