"""A tiny random form of every proven model family, and of what within a family computes differently."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from lorikeet_adapters.families import PROVEN
from tests.tiny import VOCABULARY

WINDOW = 16  # shorter than the tests' sequences, so that windows and chunks matter
# Whatever of these a config has.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "dff", "ffn_hidden_size"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 16,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size"), WINDOW),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 32),
    "shared_expert_intermediate_size": 32,
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "rotary_dim": 8,
}
BOTH = ["sliding_attention", "full_attention"]
GROUPED: dict[str, Any] = {"head_dim": 16, "num_key_value_heads": 2}
LATENT: dict[str, Any] = {"head_dim": 8, "num_key_value_heads": 4}
SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": BOTH}
EXPERTS: dict[str, Any] = {"n_routed_experts": 4, "num_experts_per_tok": 2}
FAR: dict[str, Any] = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
# What the sizes alone do not make of a family.
FORMS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "nemotron"), GROUPED),
    **dict.fromkeys(("axk1", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu"), LATENT),
    "deepseek_v2": {**LATENT, **EXPERTS},
    "longcat_flash": {**LATENT, **EXPERTS, "zero_expert_num": 2},
    "dots1": {**GROUPED, **EXPERTS, **SLIDING, "moe_intermediate_size": 32, "n_shared_experts": 1},
    "ministral": {**GROUPED, "sliding_window": WINDOW, "layer_types": BOTH},
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3"), SLIDING),
    # Their standard layers are all full, published ones are not.
    "laguna": {"sliding_window": WINDOW, "layer_types": BOTH},
    "mellum": {"sliding_window": WINDOW, "layer_types": BOTH},
    "smollm3": {**SLIDING, "no_rope_layers": [1, 0]},
    "llama4_text": {"no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"]},
    **{name: {"sliding_window": WINDOW} for name in ("starcoder2", "phi3", "phimoe", "mixtral")},
    "qwen3_moe": {"sliding_window": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "opt": {"word_embed_proj_dim": 64},
    "modernbert-decoder": {"local_attention": 2 * WINDOW},
    "cohere_compass_text": {
        "layer_types": BOTH,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in BOTH},
    },
    # Its last two layers use the keys and values of the two before them.
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": BOTH * 2,
        "laurel_rank": 8,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "activation_sparsity_pattern": None,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY},
}
# Within a family: (model type, what differs).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-alibi": ("falcon", {"alibi": True}),
    "falcon-rw": ("falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "falcon-new-alibi": ("falcon", {"alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-many-queries": ("falcon", {"multi_query": True, "parallel_attn": True}),
    "gpt_bigcode-many-heads": ("gpt_bigcode", {"multi_query": False}),
    # ALiBi's slopes are made in another way when the heads are no power of two.
    "bloom-six-heads": ("bloom", {"n_head": 6, "hidden_size": 96}),
    "mpt-six-heads": ("mpt", {"n_heads": 6, "d_model": 96}),
    "opt-after-norm": ("opt", {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "granitemoehybrid-dense": ("granitemoehybrid", {"layer_types": ["attention", "attention"]}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "deepseek_v2-plain-queries": ("deepseek_v2", {**LATENT, **EXPERTS, "q_lora_rank": None}),
    **{
        f"llama-{kind}": ("llama", {"rope_parameters": {"rope_type": kind, **FAR, **more}})
        for kind, more in {
            "linear": {},
            "dynamic": {},
            "yarn": {},
            "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        }.items()
    },
}
ALL: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, FORMS.get(name, {})) for name in sorted(PROVEN)},
    **VARIANTS,
}
# One of each way to compute; `make test` holds these to the whole matrix, the others to the self-test alone.
_KINDS = """
    apertus bitnet bloom-six-heads codegen cohere2 ctrl dbrx deepseek_v2 diffllama exaone4 falcon-many-queries
    falcon-new-alibi falcon-rw gemma gemma3 gemma3n_text gemma4_text gpt_bigcode gpt_neo gpt_oss gptj
    granitemoehybrid-dense jetmoe llama-dynamic llama-yarn llama4_text longcat_flash mimo_v2_flash modernbert-decoder
    mpt-six-heads nemotron qwen2_moe smollm3 stablelm-parallel xglm
"""
KINDS = _KINDS.split()
# A vision tower beside the text model; requests are text alone.
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def make_config(model_type: str, **form: Any) -> PretrainedConfig:
    """The family's own config with every size made small."""
    standard = AutoConfig.for_model(model_type).get_text_config(decoder=True)
    kind, stated = type(standard), standard.to_dict()
    aliases = getattr(kind, "attribute_map", None) or {}
    small = {
        name: size
        for name, size in SIZES.items()
        if name not in aliases and not _is_derived(kind, name) and stated.get(name) is not None
    }
    layers = list(dict.fromkeys(stated.get("layer_types") or ()))
    if layers and not _is_derived(kind, "layer_types"):
        small["layer_types"] = (layers * 2)[:2]
    return kind(**{**small, "pad_token_id": 0, **form})


def _is_derived(kind: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(kind, name, None), property)


def make_form(name: str, seed: int = 0) -> PreTrainedModel:
    """As `tiny.make_model`: fp32, spread weights, biases that are not zero, no end-of-turn token."""
    model_type, form = ALL[name]
    config = make_config(model_type, **form)
    config.initializer_range = 0.35
    if model_type == "gemma3":
        config = Gemma3Config(text_config=config, vision_config=TOWER, mm_tokens_per_image=4)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for path, parameter in model.named_parameters():
        if path.endswith((".bias", "sinks")):
            torch.nn.init.normal_(parameter, std=0.1)
    if model_type.startswith(("gemma", "xglm", "biogpt", "ctrl")):
        # Multiplied on the way in: tied, a model this small would repeat its input.
        model.get_input_embeddings().weight.data *= 0.1
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model
