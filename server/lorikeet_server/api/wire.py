"""What OpenAI-shaped clients send: the types that parse it and what they mean to the engine."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lorikeet_server.api.body import Body
from lorikeet_server.api.constraints import ConstraintFields
from lorikeet_server.engine.request import Sampling

Weight = Annotated[float, Field(allow_inf_nan=False)]
Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)]
COMPLETION_TOKENS = 16  # OpenAI's default on /v1/completions
MAX_TOP_K = 2**31 - 1
SMALLEST = 1e-6  # a temperature or top_p below it is zero to the sampler's 32-bit floats


def temperature_of(value: float) -> float:
    """Greedy is what small temperatures come to."""
    return value if value >= SMALLEST else 0.0


class WeightedAdapter(Body):
    """One term of a mix, as in `adapters`."""

    name: str
    weight: Weight = 1.0


class LlamaCppLora(Body):
    """llama.cpp's form; its `id` is a name here."""

    id: str
    scale: Weight


class MergedAdapters(Body):
    """LoRAX's form. `linear` is the exact weighted sum here, and needs neither density nor sign."""

    ids: list[str] = Field(min_length=1)
    weights: list[Weight] = Field(default_factory=list)
    merge_strategy: Literal["linear", "ties", "dare_linear", "dare_ties"] = "linear"
    density: float = Field(default=0.0, validate_default=True)
    majority_sign_method: Literal["total", "frequency"] = "total"

    @field_validator("density")
    @classmethod
    def _suits_the_strategy(cls, value: float, info: ValidationInfo) -> float:
        strategy = info.data.get("merge_strategy")
        if strategy == "linear" and value not in (0, 1):
            raise PydanticCustomError("density", "means nothing to `linear`, the exact weighted sum")
        if strategy not in ("linear", None) and not 0 < value <= 1:
            raise PydanticCustomError("density", "must be a share above 0 and at most 1")
        return value


class MixFields(Body):
    """The four forms in which a body can ask for a mix besides `model`."""

    adapters: list[WeightedAdapter] | None = None
    merged_adapters: MergedAdapters | None = None
    lora: list[LlamaCppLora] | None = None


class StreamOptions(Body):
    include_usage: bool = False


class GenerationBody(MixFields, ConstraintFields):
    """Fields that chat and plain completions share."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n": (1,),
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "repetition_penalty": (1,),
        "logit_bias": ({},),
        "min_p": (0,),
        "min_tokens": (0,),
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
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, le=MAX_TOP_K)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list, max_length=64)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("stream_options")
    @classmethod
    def _for_streams(cls, value: StreamOptions | None, others: ValidationInfo) -> StreamOptions | None:
        if value is not None and others.data.get("stream") is False:
            raise PydanticCustomError("stream", "only a request with stream: true has options of a stream")
        return value

    def sampling(self, max_tokens: int) -> Sampling:
        return Sampling(
            max_tokens=max_tokens,
            temperature=temperature_of(self.temperature),
            top_k=max(self.top_k, 0),
            top_p=max(self.top_p, SMALLEST),
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(self.stop),
            stop_token_ids=frozenset(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
        )

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    """`developer` is `system`. Parts are joined; other parts than text are refused."""

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"name"})
    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextPart]

    @field_validator("content", mode="before")
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

    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_bound(cls, value: int | None, others: ValidationInfo) -> int | None:
        if value is not None and others.data.get("max_tokens") not in (None, value):
            raise PydanticCustomError("bounds", "max_tokens says otherwise; send one of the two")
        return value


TokenIds = list[Annotated[int, Field(ge=0)]]


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: str | list[str] | TokenIds | list[TokenIds]
    max_tokens: int = Field(default=COMPLETION_TOKENS, ge=1)

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
    def prompts(self) -> list[str | TokenIds]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [each for each in self.prompt if not isinstance(each, int)]


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
