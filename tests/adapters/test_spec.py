"""adapter_config.json: what PEFT saves is read as PEFT reads it, everything else is refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.reach import EVERYWHERE
from lorikeet_adapters.spec import AdapterSpec, canonical_config, matches, parse_spec
from tests.adapters.hostile import HOSTILE

REAL_CONFIGS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "adapter_configs"
PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KNOWN_KEYS = [*sorted(LoraConfig().to_dict()), "enable_lora", "merge_weights", "x", "\ud800"]


def config(**options: Any) -> bytes:
    return json.dumps({**PLAIN, **options}).encode()


def refusal(text: bytes) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as caught:
        parse_spec(text)
    return caught.value


def reasons(text: bytes) -> dict[str, str]:
    """Field -> code of every finding."""
    return {finding.field: finding.code for finding in refusal(text).findings}


def layers_of(**options: Any) -> tuple[bytes, dict[str, LoraLayer]]:
    """PEFT's layers on a tiny Llama, and the config that PEFT saves for them."""
    tiny = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    with torch.device("meta"):
        lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **options)
        adapted: nn.Module = get_peft_model(AutoModelForCausalLM.from_config(tiny), lora)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
    }
    return saved(lora), layers


def saved(lora: LoraConfig) -> bytes:
    """What `save_pretrained` writes, with patterns in the order in which this config has them."""
    return json.dumps(lora.to_dict(), default=list).encode()


@pytest.mark.parametrize("options", [{}, {"task_type": "CAUSAL_LM"}, {"target_modules": ["q_proj"]}])
def test_what_peft_saves_by_default_is_read_without_a_finding(
    options: dict[str, Any], tmp_path: Path
) -> None:
    LoraConfig(**options).save_pretrained(tmp_path)
    spec = parse_spec((tmp_path / "adapter_config.json").read_bytes())
    assert replace(spec, reach=EVERYWHERE) == AdapterSpec(
        rank=8, alpha=8.0, rslora=False, rank_pattern={}, alpha_pattern={}, base_name=None
    )


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 12},
        {"r": 4, "lora_alpha": 12, "use_rslora": True},
        {"r": 3, "lora_alpha": 0.5},
        {"r": 2, "lora_alpha": -6},
        {"r": 4, "lora_alpha": 0},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}},
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 3, "down_proj": 0.25}, "use_rslora": True},
        {
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"self_attn.v_proj": 5, "proj": 7, "model.layers.0.self_attn.k_proj": 1},
            "alpha_pattern": {"v_proj": 11, "layers.0.self_attn.v_proj": 99},
        },
        # A dot in a pattern is any character to PEFT: this one is a match of `self_attn.o_proj`.
        {
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"self.attn.o.proj": 2},
            "alpha_pattern": {"lf_attn.o_proj": 5},
        },
        # Two patterns for one module: the first in the file counts.
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"self_attn.q_proj": 2, "q_proj": 6}},
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 6, "self_attn.q_proj": 2}},
    ],
)
def test_rank_and_scaling_of_every_module_are_those_of_peft(options: dict[str, Any]) -> None:
    text, layers = layers_of(**options)
    spec = parse_spec(text)
    assert len(layers) == 14
    for module, layer in layers.items():
        assert spec.rank_of(module) == layer.r["default"], module
        assert spec.scaling_of(module) == pytest.approx(layer.scaling["default"], rel=1e-12), module


def test_a_suffix_is_matched_at_a_dot_only() -> None:
    assert matches("proj", "model.proj")
    assert matches("proj", "proj")
    assert not matches("proj", "model.q_proj")
    assert not matches("model.q_proj", "q_proj")


def test_the_stored_config_keeps_the_order_of_patterns() -> None:
    """Which of two matching patterns counts may not depend on whether the original or the stored copy is read."""
    text = config(rank_pattern={"q_proj": 2, "attn.q_proj": 6}, alpha_pattern={"z": 1, "q_proj": 3, "a": 2})
    original, stored = parse_spec(text), parse_spec(canonical_config(text))
    assert original.rank_of("attn.q_proj") == stored.rank_of("attn.q_proj") == 2
    assert list(stored.alpha_pattern) == ["z", "q_proj", "a"]


def test_spaces_and_the_order_of_keys_do_not_make_another_generation() -> None:
    one = b'{"r": 8, "peft_type": "LORA",\n "lora_alpha": 16}'
    other = b'{"lora_alpha":16,"r":8,"peft_type":"LORA"}'
    assert canonical_config(one) == canonical_config(other)
    assert canonical_config(one) != canonical_config(config(r=9))


UNSUPPORTED: dict[str, Any] = {
    "modules_to_save": ["lm_head"],
    "target_parameters": ["experts.w1"],
    "trainable_token_indices": [1, 2],
    "init_lora_weights": "pissa_niter_16",
    "alora_invocation_tokens": [5],
    "arrow_config": {"top_k": 2},
    "layer_replication": [[0, 4], [2, 5]],
    "megatron_config": {"tensor_parallel": 2},
    "use_qalora": True,
    "use_bdlora": {"nblocks": 2},
    "kasa_config": {"beta": 1},
    "monteclora_config": {"n": 1},
    "corda_config": {"x": 1},
    "lora_ga_config": {"x": 1},
    "ensure_weight_tying": True,
    "enable_lora": [True, False, True],
    "task_type": "SEQ_CLS",
}


@pytest.mark.parametrize("key", list(UNSUPPORTED))
def test_an_unsupported_option_is_refused_by_name(key: str) -> None:
    refused = refusal(config(**{key: UNSUPPORTED[key]}))
    assert [(each.field, each.code) for each in refused.findings] == [(key, "unsupported_option")]
    assert key in str(refused)
    assert len(refused.findings[0].fix) > 10, "how to mend it"


def test_all_unsupported_options_are_named_at_once() -> None:
    """In the order of the stages: what we do not know, what we do not serve, numbers out of range."""
    found = reasons(config(**UNSUPPORTED, zz_invented=3, another="x", r=0))
    assert list(found.items()) == [
        ("another", "unknown_key"),
        ("zz_invented", "unknown_key"),
        *((key, "unsupported_option") for key in sorted(UNSUPPORTED)),
        ("r", "bad_value"),
    ]


@pytest.mark.safety("security 5")
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_config_gets_every_reason_and_how_to_mend_it(name: str) -> None:
    text, expected = HOSTILE[name]
    findings = refusal(text).findings
    assert {(each.field, each.code) for each in findings} == expected
    assert len(findings) == len(expected)
    for each in findings:
        assert each.message.isascii()
        assert len(each.message) < 400


@pytest.mark.parametrize(
    "init", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq", "unknown", ["gaussian"], 7]
)
def test_initialisations_that_rewrite_the_base_are_refused(init: object) -> None:
    assert reasons(config(init_lora_weights=init)) == {"init_lora_weights": "unsupported_option"}


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_that_leave_the_base_alone_are_read(init: object) -> None:
    parse_spec(config(init_lora_weights=init))


@pytest.mark.parametrize("value", [None, False, "", [], {}])
@pytest.mark.parametrize("key", ["use_dora", "modules_to_save", "invented_by_somebody", "bias"])
def test_an_unknown_key_without_a_value_is_no_reason_to_refuse(key: str, value: object) -> None:
    parse_spec(config(**{key: value}))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "lfs_pointer"),
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff\xfe\x00", "not_json"),
        (b'{"r": ' + b"9" * 5000 + b"}", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "not_an_object"),
        (b'"LORA"', "not_an_object"),
        (b"null", "not_an_object"),
        (b"{}", "unsupported_peft_type"),
        (b'{"peft_type": "IA3"}', "unsupported_peft_type"),
        (b'{"peft_type": ["LORA"]}', "unsupported_peft_type"),
    ],
)
def test_what_is_no_lora_config_says_what_it_is(text: bytes, code: str) -> None:
    (finding,) = refusal(text).findings
    assert finding.code == code


def test_a_value_nested_as_deep_as_the_parser_goes_is_refused() -> None:
    """Every depth up to where the parser itself gives up; the last ones could still be read but not printed."""
    for depth in range(800, 1000):
        nested = b"[" * depth + b"]" * depth
        refused = refusal(b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "x": ' + nested + b"}")
        assert refused.findings[0].code in ("unknown_key", "not_json")


BAD_NUMBERS = ["8", True, None, [8], {}, float("nan"), float("inf"), -float("inf"), 10**400]


@pytest.mark.parametrize("value", [*BAD_NUMBERS, 0, -1, 4097, 2.0])
def test_a_rank_is_a_whole_number_in_range(value: object) -> None:
    assert reasons(config(r=value)) == {"r": "bad_value"}
    assert reasons(config(rank_pattern={"q_proj": value})) == {"rank_pattern": "bad_value"}


@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_an_alpha_is_a_finite_number(value: object) -> None:
    assert reasons(config(lora_alpha=value)) == {"lora_alpha": "bad_value"}
    assert reasons(config(alpha_pattern={"q_proj": value})) == {"alpha_pattern": "bad_value"}


@pytest.mark.parametrize("value", [1, "true", [True]])
def test_a_flag_is_true_or_false(value: object) -> None:
    assert reasons(config(use_rslora=value)) == {"use_rslora": "bad_value"}


def test_r_and_alpha_must_be_there() -> None:
    assert reasons(b'{"peft_type": "LORA"}') == {"r": "bad_value", "lora_alpha": "bad_value"}


@pytest.mark.safety("security 5")
@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "q_proj|v_proj", r"layers\.1", "^model", "a*", "[qv]_proj", ""]
)
def test_a_pattern_is_never_executed(pattern: str) -> None:
    assert reasons(config(rank_pattern={pattern: 4})) == {"rank_pattern": "regex_pattern"}


def test_patterns_are_an_object() -> None:
    assert reasons(config(rank_pattern=[4], alpha_pattern="x")) == {
        "rank_pattern": "bad_value",
        "alpha_pattern": "bad_value",
    }


def test_a_message_can_always_be_sent_and_stays_short() -> None:
    """Keys are the file's; a lone surrogate in one would break the answer's encoding."""
    hostile = {"\ud800": 1, "k" * 100_000: "v" * 100_000, "a\nb": 1}
    hostile |= {f"key_{each}": 1 for each in range(2000)}
    refused = refusal(config(**hostile))
    assert len(refused.findings) == len(hostile)
    assert "and 1953 more" in str(refused)
    assert len(str(refused)) < 20_000
    for finding in refused.findings:
        assert len((finding.sentence + finding.field).encode()) < 500
        assert "\n" not in finding.sentence


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KNOWN_KEYS) | st.text(max_size=6), JSON_VALUES, max_size=8))
def test_any_object_is_read_or_refused(options: dict[str, Any]) -> None:
    text = json.dumps({**PLAIN, **options}).encode()
    try:
        spec = parse_spec(text)
    except AdapterRefused as refused:
        str(refused).encode()
    else:
        assert spec.rank >= 1
        assert math.isfinite(spec.scaling_of("model.layers.0.self_attn.q_proj"))
        assert parse_spec(canonical_config(text)) == spec


@pytest.mark.safety("security 5")
@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=64) | st.text(alphabet='{}[]",:0123456789eE+-.truefalsn ', max_size=40).map(str.encode)
)
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    with pytest.raises(AdapterRefused):
        parse_spec(text)


# Configs found on model hubs. Field -> code of what is refused; empty where the config is served.
REAL: dict[str, dict[str, str]] = {
    "bloom_peft02_enable_lora.json": {"enable_lora": "unsupported_option"},
    "distilbert_seqcls.json": {"modules_to_save": "unsupported_option", "task_type": "unsupported_option"},
    "gemma4_regex_targets_peft0212.json": {},
    "gpt2_tigrinya_fan_in_cproj.json": {},
    "internlm_r64_local_base_path.json": {},
    "lfs_pointer_instead_of_config.json": {"adapter_config.json": "lfs_pointer"},
    "llama_peft02_alpaca_miner.json": {},
    "mistral_peft06.json": {},
    "nemotron_rslora_r24.json": {},
    "not_peft_two_keys_lerobot.json": {"peft_type": "unsupported_peft_type"},
    "opt125m_peft018.json": {},
    "phi15_peft05_fused_wqkv.json": {},
    "qwen25_unsloth_bnb4bit.json": {},
    "t5_single_letter_targets_seq2seq.json": {"task_type": "unsupported_option"},
    "tinyllama_null_base_peft014.json": {},
    "tinyllama_unsloth_modules_to_save_lmhead.json": {"modules_to_save": "unsupported_option"},
}


@pytest.mark.skipif(not REAL_CONFIGS.is_dir(), reason="the collection of real configs is not here")
def test_configs_found_in_the_wild() -> None:
    found: dict[str, dict[str, str]] = {}
    for path in sorted(REAL_CONFIGS.glob("*.json")):
        try:
            parse_spec(path.read_bytes())
        except AdapterRefused as refused:
            found[path.name] = {finding.field: finding.code for finding in refused.findings}
        else:
            found[path.name] = {}
    assert found == REAL


@pytest.mark.parametrize("key", ["arrow_config", "kasa_config", "monteclora_config", "use_bdlora"])
def test_an_empty_object_is_on_where_peft_makes_one_of_its_defaults(key: str, tmp_path: Path) -> None:
    config = json.dumps(PLAIN | {key: {}})
    (tmp_path / "adapter_config.json").write_text(config)
    assert getattr(LoraConfig.from_pretrained(tmp_path), key), "on in PEFT"
    assert reasons(config.encode()) == {key: "unsupported_option"}
