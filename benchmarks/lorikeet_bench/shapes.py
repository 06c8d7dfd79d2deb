"""Shapes of published models, for bases made at random where no weights can be had.

The figures are those of each model's own config.json. A random model costs what the real one costs
and says nothing that makes sense, so nothing about quality is measured on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lorikeet_bench.plan import PlanRefused


@dataclass(frozen=True, slots=True)
class Shape:
    """`context` is what the copy is given, not what the model was trained for; `more` goes into its config."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    context: int = 8192
    more: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def config(self) -> dict[str, object]:
        """Keywords for transformers' config class of `model_type`."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": None,
            **self.more,
        }


SHAPES: Mapping[str, Shape] = {
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 1536, 49152, tied=True),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, tied=True),
    "llama-3.2-1b": Shape("llama", 2048, 16, 32, 8, 8192, 128256, tied=True, more={"head_dim": 64}),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, tied=True),
    "qwen3-4b": Shape("qwen3", 2560, 36, 32, 8, 9728, 151936, tied=True, more={"head_dim": 128}),
    "llama-3-8b": Shape("llama", 4096, 32, 32, 8, 14336, 128256, tied=False),
}


def shape_of(name: str) -> Shape:
    """Raises PlanRefused for a name that is none."""
    if name not in SHAPES:
        raise PlanRefused(f"--shape is {name!r}; there are {', '.join(SHAPES)}")
    return SHAPES[name]
