"""What clients of LoRAX and TGI send."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lorikeet_server.api.body import Body
from lorikeet_server.api.constraints import NativeConstraintFields
from lorikeet_server.api.mix_body import MixFields
from lorikeet_server.api.seeds import choice_seed
from lorikeet_server.api.wire import (
    MAX_CHOICES,
    MAX_TOP_K,
    SMALLEST,
    Likely,
    Penalty,
    RepetitionPenalty,
    Share,
    Stops,
    temperature_of,
)
from lorikeet_server.engine.request import Sampling


class Parameters(MixFields, NativeConstraintFields):
    """Sampling happens when `do_sample` is true or any of temperature, top_k, top_p, typical_p asks for it, as in TGI."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "watermark": (False,),
        "return_k_alternatives": (0,),
        "apply_chat_template": (False,),
        "adapter_id": ("",),
    }
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"api_token", "adapter_source"})
    adapter_id: str = ""
    do_sample: bool = False
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOP_K)
    top_p: Share = 1.0
    typical_p: Share = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    max_new_tokens: int | None = Field(default=None, ge=1)
    ignore_eos_token: bool = False
    return_full_text: bool | None = None
    stop: Stops = Field(default_factory=list)
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    best_of: int = Field(default=1, ge=1, le=MAX_CHOICES)
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: Likely = 0

    @field_validator("best_of")
    @classmethod
    def _different_answers(cls, value: int, others: ValidationInfo) -> int:
        if value > 1 and not _samples(others.data):
            raise PydanticCustomError("best_of", "needs sampling, because greedy answers are all the same")
        return value

    def samplings(self, max_tokens: int) -> list[Sampling]:
        """One for each of `best_of` answers; the first has the seed itself."""
        temperature = 1.0 if self.temperature is None else temperature_of(self.temperature)
        first = Sampling(
            max_tokens=max_tokens,
            temperature=temperature if _samples(dict(self)) else 0.0,
            top_k=self.top_k or 0,
            top_p=max(self.top_p, SMALLEST),
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(self.stop),
            ignore_eos=self.ignore_eos_token,
            typical_p=max(self.typical_p, SMALLEST),
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logprobs=self.top_n_tokens or None,
            prompt_logprobs=0 if self.decoder_input_details else None,
        )
        return [replace(first, seed=choice_seed(first.seed, index)) for index in range(self.best_of)]


class GenerateBody(Body):
    """POST /generate."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {"stream": (False,)}
    inputs: str = Field(min_length=1)
    parameters: Parameters = Field(default_factory=Parameters)

    @property
    def opening(self) -> str:
        """What stands before the answer in `generated_text`."""
        return self.inputs if self.parameters.return_full_text else ""


class StreamBody(GenerateBody):
    """POST /generate_stream."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {"stream": (True,)}


class PlainBody(GenerateBody):
    """POST /, where TGI repeats the prompt unless told not to."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {}
    stream: bool = False

    @property
    def opening(self) -> str:
        return "" if self.parameters.return_full_text is False else self.inputs


def _samples(fields: dict[str, Any]) -> bool:
    """Whether these parameters ask for sampling; those that are wrong are missing."""
    asks = fields.get("do_sample", False) or fields.get("top_k") is not None
    return asks or any(fields.get(each) not in (None, 1.0) for each in ("temperature", "top_p", "typical_p"))
