"""Configs that must not be served, each with every reason that must be given: (field, code) pairs."""

from __future__ import annotations

import json
from typing import Any

Reasons = set[tuple[str, str]]
PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
LONG = "k" * 300


def _with(**options: Any) -> bytes:
    return json.dumps({**PLAIN, **options}).encode()


def _one(field: str, value: object, code: str) -> tuple[bytes, Reasons]:
    return _with(**{field: value}), {(field, code)}


CONFIG = "adapter_config.json"
HOSTILE: dict[str, tuple[bytes, Reasons]] = {
    # No config at all.
    "empty": (b"", {(CONFIG, "not_json")}),
    "lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        {(CONFIG, "lfs_pointer")},
    ),
    "html error page": (b"<!DOCTYPE html><html>404</html>", {(CONFIG, "not_json")}),
    "cut off": (_with()[:-1], {(CONFIG, "not_json")}),
    "two objects": (_with() + _with(), {(CONFIG, "not_json")}),
    "bytes of a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), {(CONFIG, "not_json")}),
    "pickle": (
        b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        {(CONFIG, "not_json")},
    ),
    "deep list": (b"[" * 50_000 + b"]" * 50_000, {(CONFIG, "not_json")}),
    "huge number": (b'{"peft_type": "LORA", "r": ' + b"9" * 6000 + b"}", {(CONFIG, "not_json")}),
    "list": (b"[1, 2]", {(CONFIG, "not_an_object")}),
    "string": (b'"LORA"', {(CONFIG, "not_an_object")}),
    "number": (b"8", {(CONFIG, "not_an_object")}),
    # Not LoRA.
    "no peft_type": (b'{"r": 8, "lora_alpha": 16}', {("peft_type", "unsupported_peft_type")}),
    "lower case": _one("peft_type", "lora", "unsupported_peft_type"),
    "ia3": _one("peft_type", "IA3", "unsupported_peft_type"),
    "prompt tuning": _one("peft_type", "PROMPT_TUNING", "unsupported_peft_type"),
    "type is a list": _one("peft_type", ["LORA"], "unsupported_peft_type"),
    "type is an object": _one("peft_type", {"LORA": 1}, "unsupported_peft_type"),
    # Keys and settings.
    "unknown key": _one("surprise", 1, "unknown_key"),
    "key that looks like a known one": _one("Lora_alpha", 32, "unknown_key"),
    "code in a key": _one("__reduce__", ["os.system", "id"], "unknown_key"),
    "auto_map": _one("auto_map", {"AutoModel": "evil--modeling.Evil"}, "unknown_key"),
    "file path": _one("weights_file", "/etc/passwd", "unknown_key"),
    "modules_to_save": _one("modules_to_save", ["lm_head", "embed_tokens"], "unsupported_option"),
    "trained tokens": _one("trainable_token_indices", {"embed_tokens": [1]}, "unsupported_option"),
    "expert parameters": _one("target_parameters", ["mlp.experts.gate_up_proj"], "unsupported_option"),
    "pissa": _one("init_lora_weights", "pissa", "unsupported_option"),
    "invented init": _one("init_lora_weights", "zeros", "unsupported_option"),
    "activated": _one("alora_invocation_tokens", [1, 2], "unsupported_option"),
    "classifier": _one("task_type", "SEQ_CLS", "unsupported_option"),
    "made-up task": _one("task_type", "CAUSAL_LM ", "unsupported_option"),
    "replicated layers": _one("layer_replication", [[0, 2], [0, 2]], "unsupported_option"),
    "megatron": _one("megatron_config", {"x": 1}, "unsupported_option"),
    "qalora": _one("use_qalora", True, "unsupported_option"),
    "old enable_lora": _one("enable_lora", [True, False, True], "unsupported_option"),
    # Numbers and patterns.
    "rank 0": _one("r", 0, "bad_value"),
    "negative rank": _one("r", -8, "bad_value"),
    "rank as text": _one("r", "8", "bad_value"),
    "rank true": _one("r", True, "bad_value"),
    "rank 8.0": _one("r", 8.0, "bad_value"),
    "rank beyond all reason": _one("r", 10**9, "bad_value"),
    "no rank": (b'{"peft_type": "LORA", "lora_alpha": 16}', {("r", "bad_value")}),
    "alpha nan": (b'{"peft_type": "LORA", "r": 8, "lora_alpha": NaN}', {("lora_alpha", "bad_value")}),
    "alpha infinite": (b'{"peft_type": "LORA", "r": 8, "lora_alpha": 1e999}', {("lora_alpha", "bad_value")}),
    "alpha as text": _one("lora_alpha", "16", "bad_value"),
    "rslora maybe": _one("use_rslora", "yes", "bad_value"),
    "dora 1": _one("use_dora", 1, "bad_value"),
    "bias some": _one("bias", "some", "bad_value"),
    "bias list": _one("bias", ["all"], "bad_value"),
    "dora with lora_bias": (_with(use_dora=True, lora_bias=True), {("lora_bias", "bad_value")}),
    "pattern of ranks a list": _one("rank_pattern", [8], "bad_value"),
    "rank in a pattern": _one("rank_pattern", {"q_proj": 0}, "bad_value"),
    "regex that never ends": _one("rank_pattern", {"(a+)+$": 8}, "regex_pattern"),
    "alpha in a pattern": _one("alpha_pattern", {"q_proj": "x"}, "bad_value"),
    # All at once.
    "everything": (
        _with(
            r=0, lora_alpha=None, surprise=1, modules_to_save=["a"], rank_pattern={"a": -1}, use_rslora=[1]
        ),
        {
            ("surprise", "unknown_key"),
            ("modules_to_save", "unsupported_option"),
            ("r", "bad_value"),
            ("lora_alpha", "bad_value"),
            ("use_rslora", "bad_value"),
            ("rank_pattern", "bad_value"),
        },
    ),
    "long key": (_with(**{LONG: 1}), {('"' + LONG[:56] + "...", "unknown_key")}),
}
