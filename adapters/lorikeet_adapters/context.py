"""How long a sequence a base was made for, from its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
UNSTATED = 2048


def context_length(config: PretrainedConfig) -> int:
    """Longest sequence in tokens whose positions come out the same whoever else is in the batch.

    LongRoPE turns every position of a batch differently once one row is longer than the original
    context. A row would then change with its company, so the original context is the limit. Llama 4
    scales queries by the batch's length, in steps, so the first step is the limit.
    """
    text = config.get_text_config()
    lengths = (getattr(text, key, None) for key in LENGTH_KEYS)
    stated = next((each for each in lengths if isinstance(each, int) and each > 0), UNSTATED)
    return min([stated, *_original_lengths(text), *_temperature_steps(text)])


def _original_lengths(text: PretrainedConfig) -> Iterator[int]:
    stated = getattr(text, "rope_parameters", None) or {}
    # One set for all layers, or one a kind of layer.
    for rope in (stated, *stated.values()):
        if isinstance(rope, Mapping) and rope.get("rope_type") == "longrope":
            yield _original_length(text, rope)


def _original_length(text: PretrainedConfig, rope: Mapping[str, Any]) -> int:
    own = rope.get("original_max_position_embeddings")
    return int(own or getattr(text, "original_max_position_embeddings", None) or UNSTATED)


def _temperature_steps(text: PretrainedConfig) -> Iterator[int]:
    if getattr(text, "attn_temperature_tuning", False) and getattr(text, "floor_scale", None):
        yield max(int(text.floor_scale) - 1, 1)
