"""Tiny randomly initialised models and adapters, and PEFT as the oracle that judges ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 320
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_ROTARY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_GQA = {**_ROTARY, "num_key_value_heads": 2}
# max_position_embeddings is left at what each class chooses, except where it would be wasteful.
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**_GQA),
    "qwen2": lambda: Qwen2Config(**_GQA),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4),
    "gpt_neox": lambda: GPTNeoXConfig(**_ROTARY),
    "bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4),
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=64,
        max_position_embeddings=256,
    ),
    "phi3": lambda: Phi3Config(**_GQA, pad_token_id=0),
    "falcon": lambda: FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        new_decoder_architecture=True,
        num_kv_heads=2,
        alibi=False,
    ),
    "mistral": lambda: MistralConfig(**_GQA, sliding_window=16),
    "gemma2": lambda: Gemma2Config(**_GQA, head_dim=16, sliding_window=16),
    "gemma3": lambda: Gemma3TextConfig(**_GQA, head_dim=16, sliding_window=16),
    "mixtral": lambda: MixtralConfig(**_GQA, num_local_experts=4, num_experts_per_tok=2),
    "qwen3": lambda: Qwen3Config(**_GQA, head_dim=16),
    "phi": lambda: PhiConfig(**_GQA),
}


def make_model(architecture: str, seed: int = 0, spread: float = 0.35) -> PreTrainedModel:
    """fp32, weights wide enough that greedy tokens vary, and no end-of-turn token."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    config.initializer_range = spread
    config.bos_token_id = config.eos_token_id = None
    config.pad_token_id = 0
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.1)  # they start as zeros, which would hide mistakes
    if architecture.startswith("gemma"):
        # Their embeddings are multiplied on the way in; tied, a model this small would repeat its input.
        model.get_input_embeddings().weight.data *= 0.1
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def save_model(folder: Path, architecture: str, seed: int = 0) -> Path:
    make_model(architecture, seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, one token a byte, so any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = TokenizersTokenizer(models.BPE({each: index for index, each in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, pad_token="<|pad|>", additional_special_tokens=special[1:]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_adapter(base: Path, folder: Path, rank: int, seed: int, **options: Any) -> Path:
    """A PEFT adapter on every linear module, with random weights so that it changes the output."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    # On Mixtral `all-linear` takes the experts in, which are refused.
    everything = ATTENTION if model.config.model_type == "mixtral" else "all-linear"
    settings = {
        "target_modules": everything,
        "lora_alpha": 2 * rank,
        "task_type": "CAUSAL_LM",
        "fan_in_fan_out": model.config.model_type == "gpt2",  # its linear layers are transposed Conv1D
        **options,
    }
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=rank, **settings))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            _train(name, parameter)
    adapted.save_pretrained(folder)
    return folder


def _train(name: str, parameter: torch.nn.Parameter) -> None:
    """In place of training: whatever an adapter may hold differs from what it was at the start."""
    if "magnitude" in name:
        parameter.data *= torch.empty_like(parameter).uniform_(0.6, 1.6)
    elif "lora_A" not in name:
        torch.nn.init.normal_(parameter, std=0.1)


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """generate() alone, greedy, of exactly `tokens` tokens."""
    config = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    ids = torch.tensor([prompt])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return [int(token) for token in out[0, len(prompt) :]]


def peft_model(base: Path, adapter: Path) -> Any:
    """The base with one adapter applied by PEFT, unmerged."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).eval()


def blended_model(base: Path, mix: dict[Path, float]) -> PreTrainedModel:
    """The base whose weights got the weighted sum of PEFT's own delta weights."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    total = copy.deepcopy(model)
    head = total.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.clone())  # what is added to one of a tied pair stays there
    with torch.no_grad():
        for adapter, weight in mix.items():
            applied = PeftModel.from_pretrained(copy.deepcopy(model), adapter).base_model.model
            _add(total, model, applied, weight)
    return total


def _add(total: PreTrainedModel, model: PreTrainedModel, applied: Any, weight: float) -> None:
    for name, layer in applied.named_modules():
        if isinstance(layer, LoraLayer):
            total.get_submodule(name).weight += weight * layer.get_delta_weight("default")
        if getattr(layer, "lora_bias", {}).get("default"):
            bias = layer.lora_B["default"].bias
            total.get_submodule(name).bias += weight * layer.scaling["default"] * bias
    for name, trained in applied.named_parameters():
        if name.endswith(".bias") and ".lora_" not in name:
            plain = name.replace(".base_layer.", ".")
            total.get_parameter(plain).add_(trained - model.get_parameter(plain), alpha=weight)
