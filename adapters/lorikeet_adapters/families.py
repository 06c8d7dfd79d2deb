"""Model families: those proven token for token, and why others are refused.

What decides is whether a row of the batch can be told from its keys and values alone. Whoever adds
a family to `PROVEN` adds its tiny form to `tests/architectures.py`, where it is held to generate().
"""

from __future__ import annotations

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig

KEY_VALUE_LAYERS = frozenset({"attention", "full_attention", "sliding_attention", "chunked_attention"})
# Model types, as in config.json, whose every row in a mixed batch has the tokens of generate() alone.
_PROVEN = """
    afmoe apertus arcee aria_text axk1 biogpt bitnet bloom codegen cohere cohere2 cohere2_moe
    cohere_compass_text ctrl cwm dbrx deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5 ernie4_5_moe
    exaone4 exaone_moe falcon flex_olmo flint gemma gemma2 gemma3 gemma3_text gemma3n_text gemma4_text
    glm glm4 glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj
    granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hunyuan_v1_dense
    hunyuan_v1_moe hy_v3 hyperclovax jais2 jetmoe kolibri1 laguna llama llama4_text longcat_flash mellum
    mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mixtral modernbert-decoder mpt
    nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3
    qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm youtu
"""
PROVEN = frozenset(_PROVEN.split())
HYBRIDS = frozenset({"granitemoehybrid"})  # refused but for members whose layers are all attention
RECURRENT = "keeps a recurrent state, which has no slot form here"
ENCODER_DECODER = "is an encoder-decoder: what it writes depends on an encoder's states"
ENCODER = "is an encoder: its tokens see those that come after them"
NO_GENERATOR = "has no causal language model class in transformers: it does not continue text"
NO_CACHE = "keeps no cache of keys and values"
BY_ROW_NUMBER = "counts positions by the cache's columns, so a row would change with its neighbours"
SELECTS = "chooses among past tokens by scores that count its neighbours' padding"
# What no mark in transformers tells.
REASONS = {
    **dict.fromkeys(("inkling2_text", "inkling_text", "lfm2", "lfm2_moe", "minimax"), RECURRENT),
    **dict.fromkeys(("openai-gpt", "reformer", "xlm", "xlnet"), NO_CACHE),
    **dict.fromkeys(("doge", "minimax_m3_vl", "minimax_m3_vl_text"), SELECTS),
    **dict.fromkeys(("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small"), ENCODER_DECODER),
    **dict.fromkeys(("marian", "mbart", "mvp", "pegasus", "plbart"), ENCODER_DECODER),
    **dict.fromkeys(("prophetnet", "trocr", "whisper"), ENCODER_DECODER),
    "cpmant": "puts a prompt of its own before every text",
    "moshi": "sees past tokens by what its cache has dropped, not by its mask",
    "roformer": BY_ROW_NUMBER,
}


def refusal(config: PretrainedConfig) -> str | None:
    """Why a base of this config is not served, as the end of `a bert model ...`; None when it may be."""
    if config.is_encoder_decoder:
        return ENCODER_DECODER
    if config.model_type in REASONS:
        return REASONS[config.model_type]
    generators = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), ())
    shipped = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not generators and not shipped:
        return NO_GENERATOR
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return ENCODER
    classes = generators if isinstance(generators, tuple) else (generators,)
    if any(each._is_stateful for each in classes) and not _has_attention_alone(config):
        return RECURRENT
    return _unknown_layers(config)


def _has_attention_alone(config: PretrainedConfig) -> bool:
    """A hybrid family's member without any recurrent layer, such as the dense Granite 4."""
    layers = set(getattr(config, "layer_types", None) or ())
    return config.model_type in HYBRIDS and bool(layers) and layers <= KEY_VALUE_LAYERS


def _unknown_layers(config: PretrainedConfig) -> str | None:
    """Layers say by their type what they cache: besides keys and values it may be a state or an index."""
    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    kept = ", ".join(f"`{kind}`" for kind in sorted(map(str, kinds - KEY_VALUE_LAYERS)))
    return f"keeps more than keys and values in its layers of type {kept}" if kept else None
