"""What an answer's text must be: the checked value, and what a compiled one can do. No llguidance here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lorikeet_server.engine.schema import MAX_BYTES, SchemaRefused, checked_schema

MAX_CHOICES = 1024


class Stuck(Exception):
    """A guide cannot go on: its grammar exceeds a limit, or no token continues the text."""


class Guide(Protocol):
    """One answer on its way through a grammar; belongs to one request, and to the engine's thread."""

    def allowed(self) -> bytes:
        """The next token's mask: bit `id % 8` of byte `id // 8`, some of them set. Raises Stuck."""

    def accept(self, token: int) -> None:
        """The token was chosen. Raises Stuck."""


class Grammar(Protocol):
    """A compiled constraint; any number of requests share it."""

    def begin(self) -> Guide:
        """A guide at the start of an answer."""


class ConstraintKind(StrEnum):
    SCHEMA = "schema"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a constraint cannot be compiled, for the client."""

    reason: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """`text` is JSON: a schema of checked keywords without its annotations, or a list of choices."""

    kind: ConstraintKind
    text: str

    @classmethod
    def json_object(cls) -> Constraint:
        """Any JSON object."""
        return cls(ConstraintKind.SCHEMA, '{"type": "object"}')

    @classmethod
    def json_schema(cls, schema: object) -> Constraint:
        """JSON that `schema` describes. Raises SchemaRefused with every reason."""
        return cls(ConstraintKind.SCHEMA, checked_schema(schema))

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Constraint:
        """One of these texts and nothing else. Raises SchemaRefused."""
        distinct = list(dict.fromkeys(choices))
        if not 0 < len(distinct) <= MAX_CHOICES:
            raise SchemaRefused([f"send 1 to {MAX_CHOICES} choices"])
        if "" in distinct:
            raise SchemaRefused(["a choice may not be empty"])
        text = json.dumps(distinct, ensure_ascii=False)
        if len(text.encode()) > MAX_BYTES:
            raise SchemaRefused([f"the choices are over {MAX_BYTES} bytes together"])
        return cls(ConstraintKind.CHOICE, text)
