"""The longest sequence a base takes, as its config states it in one of several ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    Llama4TextConfig,
    Phi3Config,
    PretrainedConfig,
)

from lorikeet_adapters.context import UNSTATED, context_length

LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}


def phi3(**options: Any) -> Phi3Config:
    config = Phi3Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=256,
        original_max_position_embeddings=32,
        pad_token_id=0,
        rope_parameters={**LONGROPE, **options},
    )
    config.initializer_range = 0.5
    return config


def llama4(**options: Any) -> Llama4TextConfig:
    config = Llama4TextConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        intermediate_size_mlp=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        max_position_embeddings=256,
        no_rope_layers=[0],
        floor_scale=33,
        attn_scale=4.0,
        pad_token_id=0,
        **options,
    )
    config.initializer_range = 0.5
    return config


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (GPT2Config(n_positions=77), 77),
        (FalconConfig(max_position_embeddings=99), 99),
        (BloomConfig(), UNSTATED),
        (phi3(), 32),
        (phi3(rope_type="default"), 256),
        (llama4(), 32),
        (llama4(attn_temperature_tuning=False), 256),
        (Gemma3TextConfig(max_position_embeddings=123), 123),
    ],
)
def test_the_length_a_config_states(config: PretrainedConfig, length: int) -> None:
    assert context_length(config) == length


def test_longrope_in_one_kind_of_layers_limits_all() -> None:
    config = Gemma3TextConfig(max_position_embeddings=500)
    config.rope_parameters["full_attention"] = {**LONGROPE, "original_max_position_embeddings": 60}
    assert context_length(config) == 60


@torch.no_grad()
@pytest.mark.parametrize("config", [phi3(), llama4()], ids=["longrope", "temperature"])
def test_within_its_limit_a_row_does_not_change_with_its_company(config: PretrainedConfig) -> None:
    """And beyond it does, which is why there is a limit."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    limit = context_length(config)
    alone = model(input_ids=torch.arange(8)[None]).logits[0, -1]
    for length, same in ((limit, True), (limit + 1, False)):
        ids = torch.zeros(2, length, dtype=torch.long)
        ids[0, -8:] = torch.arange(8)
        mask = torch.ones_like(ids)
        mask[0, :-8] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        beside = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, -1]
        assert torch.allclose(alone, beside, atol=1e-4) is same, length
