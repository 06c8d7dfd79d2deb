"""What becomes of each key of adapter_config.json: honoured, read without effect, or refused by name.

The keys are those of PEFT 0.2 to 0.21 (`peft.tuners.lora.config.LoraConfig`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from lorikeet_adapters.finding import Finding

MAX_SHOWN = 60  # characters of a key or value in a message

HONOURED = frozenset(
    {
        "alpha_pattern",
        "bias",
        "lora_alpha",
        "lora_bias",
        "peft_type",
        "r",
        "rank_pattern",
        "use_dora",
        "use_rslora",
    }
)
# Nothing in these changes what the adapter adds at inference.
HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "velora_config",
    }
)
HARMLESS_VALUES: Mapping[str, tuple[object, ...]] = {
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
    "task_type": ("CAUSAL_LM",),
}
MERGE = "merge it into plain LoRA with PEFT before registering"
# What PEFT knows and we do not serve, and how to mend it. Without a value these, too, change nothing.
REFUSED: Mapping[str, str] = {
    "alora_invocation_tokens": "train it as plain LoRA: where an activated LoRA begins is not served",
    "arrow_config": "register the adapters it routes between by themselves",
    "corda_config": MERGE,
    "enable_lora": "load it with PEFT 0.2, and save it as plain LoRA",
    "ensure_weight_tying": "train it without ensure_weight_tying",
    "init_lora_weights": "this initialisation changes the base: save it as plain LoRA with "
    "`save_pretrained(..., path_initial_model_for_weight_conversion=...)`",
    "kasa_config": MERGE,
    "layer_replication": "serve a base that has the repeated layers, and train on that",
    "lora_ga_config": MERGE,
    "megatron_config": "save it from an unsharded model",
    "merge_weights": "load it with PEFT 0.2, and save it as plain LoRA",
    "modules_to_save": "train with LoRA only: full copies of modules are not served",
    "monteclora_config": MERGE,
    "target_parameters": "train on linear modules: experts and routers are not adapted",
    "task_type": "train a causal language model: other heads are not served",
    "trainable_token_indices": "train with LoRA on the embedding instead",
    "use_bdlora": MERGE,
    "use_qalora": MERGE,
}
# Of an empty object PEFT makes one with all its defaults, and the variant is on.
ON_THOUGH_EMPTY = frozenset({"arrow_config", "kasa_config", "monteclora_config", "use_bdlora"})


def judge(config: Mapping[str, object]) -> Iterator[Finding]:
    """Every key that is refused: first those we do not know, then those we do not serve."""
    known = HONOURED | HARMLESS | REFUSED.keys()
    with_value = sorted(key for key, value in config.items() if not _is_neutral(key, value))
    for key in with_value:
        if key not in known:
            message = f"{shown_name(key)} = {shown(config[key])} is no setting known here"
            fix = "remove it if it has no effect, or save the adapter with PEFT"
            yield Finding("unknown_key", message, fix, field=shown_name(key))
    for key in with_value:
        if key in REFUSED and config[key] not in HARMLESS_VALUES.get(key, ()):
            message = f"{key} = {shown(config[key])} is not supported"
            yield Finding("unsupported_option", message, REFUSED[key], field=key)


def shown(value: object) -> str:
    """Short and ASCII whatever the file holds: a lone surrogate could not be sent in an answer."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def shown_name(key: str) -> str:
    plain = len(key) <= MAX_SHOWN and key.isascii() and key.isprintable()
    return key if plain else shown(key)


def _is_neutral(key: str, value: object) -> bool:
    if value == {} and key in ON_THOUGH_EMPTY:
        return False
    return value in (None, False, "", [], {})
