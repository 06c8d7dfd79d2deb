"""What is written beside a merged model for whoever finds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

LOSS = (
    "Merging is not exact. The adapters were trained, and are served, beside the base's weights as {held}; "
    "here they are added to the base as it was published and rounded to {dtype}, which are other weights. "
    "Quantising the result again to four bits loses more. To get the served answers, serve the adapters."
)
EXACT = "The adapters were served beside the same weights, in float32, that they were added to."


def loss_of(quantization: str, dtype: str) -> str:
    """What merging costs, in words."""
    if quantization == "fp32" and dtype == "float32":
        return EXACT
    return LOSS.format(held=quantization, dtype=dtype)


def model_card(
    *,
    base: str,
    quantization: str,
    mix: Mapping[str, float],
    dtype: str,
    untied: bool,
    sentence: str,
) -> str:
    """Markdown with the hub's front matter. Of a base in a folder only the last part of its name is told."""
    name = Path(base).name if Path(base).is_dir() else base
    parts = "\n".join(f"| `{adapter}` | {weight:g} |" for adapter, weight in mix.items())
    head = "\nThe head is a weight of its own here; in the base it is the embedding's.\n" if untied else ""
    return f"""---
base_model: {json.dumps(name)}
library_name: transformers
pipeline_tag: text-generation
tags: [lorikeet, merged-lora]
---
# {name} with {" and ".join(f"`{adapter}`" for adapter in mix)} merged in

| adapter | weight |
|---|---|
{parts}

Weights are {dtype} in safetensors; any program that loads the base's architecture loads them.
{head}
{loss_of(quantization, dtype)} Measured against them: {sentence}.
"""
