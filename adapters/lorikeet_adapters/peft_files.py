"""An adapter we made, as the two files PEFT would have saved."""

from __future__ import annotations

import json
from collections import Counter

import torch
from safetensors.torch import save

from lorikeet_adapters.outline import Outline
from lorikeet_adapters.tensors import PREFIX
from lorikeet_adapters.weights import AdapterWeights


def peft_files(weights: AdapterWeights, outline: Outline, base_name: str) -> tuple[bytes, bytes]:
    """(adapter_config.json, adapter_model.safetensors) of plain LoRA whose scaling is 1 everywhere."""
    assert not any((weights.shifts, weights.biases, weights.magnitudes)), "plain LoRA only"
    ranks = {module: rows.rank for module, rows in weights.modules.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in sorted(ranks.items()) if rank != usual}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "inference_mode": True,
    }
    return json.dumps(config, indent=2).encode(), save(_tensors(weights, outline), {"format": "pt"})


def _tensors(weights: AdapterWeights, outline: Outline) -> dict[str, torch.Tensor]:
    tensors = {}
    for module, rows in weights.modules.items():
        linear = module in outline.linears
        a, b = ("lora_A.weight", "lora_B.weight") if linear else ("lora_embedding_A", "lora_embedding_B")
        tensors[f"{PREFIX}{module}.{a}"] = rows.a.contiguous()
        tensors[f"{PREFIX}{module}.{b}"] = rows.b.t().contiguous()
    return tensors
