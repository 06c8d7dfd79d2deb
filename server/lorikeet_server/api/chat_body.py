"""What clients send to POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lorikeet_server.api.body import MANY, Body
from lorikeet_server.api.wire import GenerationBody, Likely


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    """`developer` is `system`. Parts are joined; other parts than text are refused."""

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"name"})
    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextPart] = Field(max_length=MANY)

    @field_validator("content", mode="before", json_schema_input_type=str | list[TextPart])
    @classmethod
    def _as_parts(cls, value: object) -> object:
        if isinstance(value, str):
            return [TextPart(type="text", text=value)]
        if not isinstance(value, list):
            raise PydanticCustomError("content", "must be a string or a list of text parts")
        return value

    def as_plain(self) -> dict[str, str]:
        text = "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        **GenerationBody.NEUTRAL,
        "best_of": (1,),
        "echo": (False,),
    }
    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: Likely = 0

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_bound(cls, value: int | None, others: ValidationInfo) -> int | None:
        if value is not None and others.data.get("max_tokens") not in (None, value):
            raise PydanticCustomError("bounds", "max_tokens says otherwise; send one of the two")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int, others: ValidationInfo) -> int:
        if value and others.data.get("logprobs") is False:
            raise PydanticCustomError("logprobs", "are told only with logprobs: true")
        return value

    @property
    def likely(self) -> int | None:
        return self.top_logprobs if self.logprobs else None
