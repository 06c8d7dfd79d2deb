"""What clients send to POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lorikeet_server.api.wire import MAX_CHOICES, GenerationBody, Likely

COMPLETION_TOKENS = 16  # OpenAI's default
# The first wrong item is told, not each of a million.
Texts = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        **GenerationBody.NEUTRAL,
        "logprobs": (False,),
        "top_logprobs": (0,),
    }
    prompt: str | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    echo: bool = False
    logprobs: Likely | None = None
    max_tokens: int = Field(default=COMPLETION_TOKENS, ge=0)

    @field_validator("best_of")
    @classmethod
    def _of_enough(cls, value: int | None, others: ValidationInfo) -> int | None:
        n = others.data.get("n", 1)
        if value is not None and value < n:
            raise PydanticCustomError("best_of", "must be at least n: so many are told")
        if value is not None and value > n and others.data.get("stream"):
            raise PydanticCustomError(
                "best_of", "the best are known only at the end; send stream: false or best_of: n"
            )
        return value

    @field_validator("max_tokens")
    @classmethod
    def _something_to_tell(cls, value: int, others: ValidationInfo) -> int:
        if value == 0 and others.data.get("echo") is False:
            raise PydanticCustomError(
                "max_tokens", "0 tells of the prompt alone: send it with echo: true, or ask for a token"
            )
        return value

    @field_validator("prompt", mode="before")
    @classmethod
    def _in_one_of_four_forms(cls, value: object) -> object:
        """One reason instead of one for each form that it is not."""
        alike = isinstance(value, list) and (
            all(isinstance(each, str) for each in value) or all(_are_ids(each) for each in value)
        )
        if not (isinstance(value, str) or alike or _are_ids(value)):
            raise PydanticCustomError(
                "prompt",
                "must be a string, a list of strings, a list of token ids (integers of 0 or more) "
                "or a list of such lists, with items of one kind only",
            )
        return value

    @property
    def answers(self) -> int:
        return self.best_of or self.n

    @property
    def likely(self) -> int | None:
        return self.logprobs

    @property
    def likely_in_prompt(self) -> int | None:
        echoed = self.logprobs if self.echo else None
        asked = [each for each in (self.prompt_logprobs, echoed) if each is not None]
        return max(asked, default=None)

    @property
    def prompts(self) -> list[str | TokenIds]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [each for each in self.prompt if not isinstance(each, int)]


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
