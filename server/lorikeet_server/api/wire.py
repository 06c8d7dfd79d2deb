"""What bodies of both OpenAI routes have in common, and what it means to the engine."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lorikeet_server.api.body import Body
from lorikeet_server.api.constraints import ConstraintFields
from lorikeet_server.api.mix_body import MixFields
from lorikeet_server.api.seeds import choice_seed
from lorikeet_server.engine.request import Request, Sampling
from lorikeet_server.errors import RequestRefused

Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)]
MAX_TOP_K = 2**31 - 1
SMALLEST = 1e-6  # a temperature or top_p below it is zero to the sampler's 32-bit floats
MAX_CHOICES = 128  # OpenAI's
MAX_LOGPROBS = 20
MAX_BIASES = 1024


def temperature_of(value: float) -> float:
    """Greedy is what small temperatures come to."""
    return value if value >= SMALLEST else 0.0


def _token_id(key: str) -> str:
    if not (key.isascii() and key.isdigit() and len(key) <= 10) or (key[0] == "0" and key != "0"):
        raise PydanticCustomError("token_id", "the keys must be token ids, as text")
    return key


Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=100)]
Share = Annotated[float, Field(gt=0, le=1)]
Likely = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
Biases = Annotated[
    dict[Annotated[str, AfterValidator(_token_id)], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES),
]


class StreamOptions(Body):
    include_usage: bool = False


class GenerationBody(MixFields, ConstraintFields):
    """Fields that chat and plain completions share."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "suffix": ("",),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
    }
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {
            "store",
            "metadata",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "parallel_tool_calls",
        }
    )
    model: str = Field(min_length=1, max_length=2048)
    user: str | None = None  # decides nothing but the target of an alias with several
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: Share = 1.0
    top_k: int = Field(default=0, ge=-1, le=MAX_TOP_K)
    min_p: float = Field(default=0.0, ge=0, le=1)
    typical_p: Share = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: Biases = Field(default_factory=dict)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list, max_length=64)
    ignore_eos: bool = False
    min_tokens: int = Field(default=0, ge=0)
    return_token_ids: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    prompt_logprobs: Likely | None = None
    timeout: float | None = Field(default=None, gt=0)  # seconds
    priority: int = Field(default=0, ge=-1000, le=1000)

    @field_validator("stop", mode="before", json_schema_input_type=str | Stops)
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("stream_options")
    @classmethod
    def _for_streams(cls, value: StreamOptions | None, others: ValidationInfo) -> StreamOptions | None:
        if value is not None and others.data.get("stream") is False:
            raise PydanticCustomError("stream", "only a request with stream: true has options of a stream")
        return value

    @field_validator("prompt_logprobs")
    @classmethod
    def _for_whole_answers(cls, value: int | None, others: ValidationInfo) -> int | None:
        if value is not None and others.data.get("stream"):
            raise PydanticCustomError("stream", "are not told in a stream; send stream: false")
        return value

    @property
    def contradiction(self) -> str:
        """A field that cannot go with a form: its end is the end of the answer, no sooner and no later."""
        if self.ignore_eos:
            return "ignore_eos"
        return "min_tokens" if self.min_tokens else ""

    def urged(self, request: Request) -> Request:
        """The same request with the priority and the deadline that this body asks for."""
        end_by = math.inf if self.timeout is None else time.monotonic() + self.timeout
        return replace(request, priority=self.priority, end_by=end_by)

    def samplings(self, max_tokens: int) -> list[Sampling]:
        """One for each answer to a prompt; the first has the seed itself. Raises RequestRefused."""
        if self.min_tokens > max_tokens:
            raise RequestRefused(
                f"min_tokens: {self.min_tokens} is more than the {max_tokens} that may be generated",
                param="min_tokens",
            )
        first = Sampling(
            max_tokens=max_tokens,
            temperature=temperature_of(self.temperature),
            top_k=max(self.top_k, 0),
            top_p=max(self.top_p, SMALLEST),
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(self.stop),
            stop_token_ids=frozenset(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            min_tokens=self.min_tokens,
            min_p=self.min_p,
            typical_p=max(self.typical_p, SMALLEST),
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in self.logit_bias.items()),
            logprobs=self.likely,
            prompt_logprobs=self.likely_in_prompt,
        )
        return [replace(first, seed=choice_seed(first.seed, index)) for index in range(self.answers)]

    @property
    def answers(self) -> int:
        """Generated for each prompt; the best `n` of them are told."""
        return self.n

    @property
    def likely(self) -> int | None:
        """How many of the most likely tokens are told with each, None where no likelihood is."""
        return None

    @property
    def likely_in_prompt(self) -> int | None:
        """The same for the prompt's tokens."""
        return self.prompt_logprobs

    @property
    def tells_tokens(self) -> bool:
        """Whether each token is told, also one that says nothing yet."""
        return self.likely is not None or self.return_token_ids

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage
