"""The fields by which a body asks for an answer of a certain form, and what they compile to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lorikeet_server.api.body import Body
from lorikeet_server.api.services import Services
from lorikeet_server.api.value import parse_value
from lorikeet_server.engine.constraint import Constraint, Grammar, Refusal
from lorikeet_server.engine.schema import SchemaRefused
from lorikeet_server.errors import ConstraintRefused, RequestRefused, ServerBusy

DEADLINE_S = 5.0
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


@dataclass(frozen=True, slots=True)
class Asked:
    """A constraint and the field it was sent in."""

    field: str
    constraint: Constraint


class JsonSchema(Body):
    """OpenAI's wrapping of a schema. It is enforced whatever `strict` says."""

    name: Name
    definition: Any = Field(alias="schema")
    strict: bool = False
    description: str | None = None


class ResponseFormat(Body):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(default=None, validate_default=True)

    @field_validator("json_schema")
    @classmethod
    def _belongs_to_its_type(cls, value: JsonSchema | None, others: ValidationInfo) -> JsonSchema | None:
        kind = others.data.get("type")
        if kind == "json_schema" and value is None:
            raise PydanticCustomError("schema", "is needed for the type json_schema")
        if kind in ("text", "json_object") and value is not None:
            raise PydanticCustomError("schema", "belongs to the type json_schema only")
        return value

    def constraint(self, place: str) -> Constraint | None:
        if self.json_schema is not None:
            return schema_constraint(self.json_schema.definition, f"{place}.json_schema.schema")
        return Constraint.json_object() if self.type == "json_object" else None


class StructuredOutputs(Body):
    """vLLM's field, for schemas and choices. Regular expressions and grammars are refused."""

    definition: Any = Field(default=None, alias="json")
    json_object: bool = False
    choice: Annotated[list[str], Field(fail_fast=True)] | None = None

    def constraint(self, place: str) -> Constraint | None:
        asked = [self.definition is not None, self.json_object, self.choice is not None]
        if sum(asked) != 1:
            raise RequestRefused(f"{place}: send one of json, json_object and choice", param=place)
        if self.choice is not None:
            return _refusable(lambda: Constraint.choice(self.choice or ()), f"{place}.choice")
        if self.json_object:
            return Constraint.json_object()
        return schema_constraint(self.definition, f"{place}.json")


class ConstraintFields(Body):
    """The two forms of OpenAI-shaped bodies."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    def asked(self) -> Asked | None:
        """Raises ConstraintRefused with every reason against a schema, RequestRefused for two forms at once."""
        return only_one("", response_format=self.response_format, structured_outputs=self.structured_outputs)


class NativeFormat(Body):
    """LoRAX's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    definition: Any = Field(default=None, alias="schema")

    def constraint(self, place: str) -> Constraint | None:
        if self.type == "text":
            return None
        if self.definition is not None:
            return schema_constraint(self.definition, f"{place}.schema")
        if self.type == "json_schema":
            raise RequestRefused(
                f"{place}.schema: is needed for the type json_schema", param=f"{place}.schema"
            )
        return Constraint.json_object()


class NativeGrammar(Body):
    """TGI's `grammar`."""

    type: Literal["json", "json_schema"]
    value: Any

    @field_validator("type", mode="before")
    @classmethod
    def _no_expressions(cls, value: object) -> object:
        if value == "regex":
            raise PydanticCustomError("regex", "regular expressions are not supported; use json")
        return value

    def constraint(self, place: str) -> Constraint | None:
        place = f"{place}.value"
        if self.type == "json":
            return schema_constraint(self.value, place)
        if not isinstance(self.value, dict) or not {"schema"} <= self.value.keys() <= {"schema", "name"}:
            raise RequestRefused(f"{place}: must have a schema, and may have a name", param=place)
        return schema_constraint(self.value["schema"], f"{place}.schema")


class NativeConstraintFields(Body):
    """The two forms of LoRAX and TGI, inside `parameters`."""

    response_format: NativeFormat | None = None
    grammar: NativeGrammar | None = None

    def asked(self) -> Asked | None:
        """Raises as in ConstraintFields."""
        return only_one("parameters.", response_format=self.response_format, grammar=self.grammar)


class Form(Protocol):
    def constraint(self, place: str) -> Constraint | None: ...


def only_one(prefix: str, **forms: Form | None) -> Asked | None:
    """The one that asks for something, `prefix` before its field's name. Raises RequestRefused for two."""
    sent = [(prefix + field, form) for field, form in forms.items() if form is not None]
    asked = [Asked(place, each) for place, form in sent if (each := form.constraint(place)) is not None]
    if len(asked) > 1:
        names = " or ".join(each.field for each in asked)
        raise RequestRefused(f"send {names}, not both", param=asked[0].field)
    return asked[0] if asked else None


def schema_constraint(definition: object, place: str) -> Constraint:
    """A schema as an object or as JSON text. Raises ConstraintRefused."""
    schema = parse_value(definition.encode(), place) if isinstance(definition, str) else definition
    return _refusable(lambda: Constraint.json_schema(schema), place)


async def compiled(services: Services, asked: Asked | None, contradiction: str = "") -> Grammar | None:
    """The grammar of what was asked for; None when nothing was.

    `contradiction` names a field that was sent and cannot go with it. Raises ConstraintRefused when
    there is no grammar within DEADLINE_S, ServerBusy when others' are waited for.
    """
    if asked is None:
        return None
    if contradiction:
        raise RequestRefused(f"{contradiction}: cannot go with {asked.field}", param=contradiction)
    making = services.grammars.compile(asked.constraint)
    if making is None:
        raise ServerBusy("as many schemas as the server takes are being compiled; try again in a second")
    waiting = asyncio.wrap_future(making)
    await asyncio.wait({waiting}, timeout=DEADLINE_S)  # does not cancel it: others may wait for it, too
    if not waiting.done() and not making.running():
        raise ServerBusy("other schemas are being compiled; try again in a second")
    outcome = waiting.result() if waiting.done() else Refusal(f"not compiled within {DEADLINE_S:g} s")
    if isinstance(outcome, Refusal):
        raise ConstraintRefused(f"{asked.field}: {outcome.reason}", param=asked.field)
    return outcome


def _refusable(make: Callable[[], Constraint], place: str) -> Constraint:
    try:
        return make()
    except SchemaRefused as error:
        raise ConstraintRefused(f"{place}: {error}", param=place) from None
