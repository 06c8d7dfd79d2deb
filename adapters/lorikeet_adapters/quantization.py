"""The forms in which a base model can be held."""

from __future__ import annotations

from enum import StrEnum


class Quantization(StrEnum):
    """`auto` is resolved once, when the base is loaded; every other member is what is held."""

    AUTO = "auto"
    NF4 = "nf4"
    INT8 = "int8"
    BF16 = "bf16"
    FP32 = "fp32"
