"""The forms in which a body can ask for a mix."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from lorikeet_server.api.body import MANY, Body

Weight = Annotated[float, Field(allow_inf_nan=False)]


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

    ids: list[str] = Field(min_length=1, max_length=MANY)
    weights: list[Weight] = Field(default_factory=list, max_length=MANY)
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

    adapters: list[WeightedAdapter] | None = Field(default=None, max_length=MANY)
    merged_adapters: MergedAdapters | None = None
    lora: list[LlamaCppLora] | None = Field(default=None, max_length=MANY)
