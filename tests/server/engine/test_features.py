"""Every feature of LoRA that is honoured, on every architecture, in one mixed batch, against PEFT alone.

PEFT makes the adapters, and PEFT (or, for a blend, the base with PEFT's own deltas added) says what
each row's tokens are. In fp32 they are the same tokens, all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.check import Checker
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.spec import parse_spec
from lorikeet_server.engine.config import EngineConfig
from lorikeet_server.engine.engine import Engine
from lorikeet_server.engine.offline import complete
from lorikeet_server.engine.request import Request, Sampling
from lorikeet_server.engine.roster import Vocabulary
from tests.server.engine.test_exactness import read_adapter
from tests.tiny import CONFIGS, blended_model, greedy, peft_model, save_adapter, save_model

# What PEFT says while it saves copies of embeddings, and about biases it will train.
FILTERS = pytest.mark.filterwarnings(
    "ignore:.*save_embedding_layers.*", "ignore:.*merg.*", "ignore:.*bias.*", "ignore:fan_in_fan_out.*"
)
pytestmark = FILTERS
TOKENS = 10
PROMPT = [9, 33, 7, 101, 64, 200, 18]
# Linear modules by the last part of their names: (attention, MLP).
LEAVES: dict[str, tuple[str, str]] = {
    "gpt2": ("c_attn", "c_proj"),
    "gpt_neox": ("query_key_value", "dense_h_to_4h"),
    "bloom": ("query_key_value", "dense_4h_to_h"),
    "falcon": ("query_key_value", "dense_h_to_4h"),
    "opt": ("q_proj", "fc2"),
    "phi": ("q_proj", "fc1"),
    "phi3": ("qkv_proj", "gate_up_proj"),
    "mixtral": ("q_proj", "o_proj"),
}
EMBEDDINGS = {"gpt2": "wte", "gpt_neox": "embed_in", "bloom": "word_embeddings", "falcon": "word_embeddings"}
WITH_BIASES = ("gpt2", "gpt_neox", "bloom", "opt", "phi", "qwen2")
UNTIED_HEADS = {"gpt_neox": "embed_out"}


def features(architecture: str) -> dict[str, dict[str, Any]]:
    """Name -> the options it was trained with."""
    attention, mlp = LEAVES.get(architecture, ("q_proj", "down_proj"))
    both = [attention, mlp]
    table: dict[str, dict[str, Any]] = {
        "plain": {"target_modules": both},
        "no_task": {"target_modules": both, "task_type": None, "lora_alpha": 3},
        "rslora": {"target_modules": both, "use_rslora": True},
        "patterns": {
            "target_modules": both,
            "rank_pattern": {attention: 7},
            "alpha_pattern": {mlp: 19},
        },
        "one_layer": {"target_modules": [attention], "layers_to_transform": [1]},
        "regex": {"target_modules": rf".*\.{attention}"},
        "dora": {"target_modules": both, "use_dora": True},
        "dora_rslora": {"target_modules": [mlp], "use_dora": True, "use_rslora": True},
        "embedding": {"target_modules": [attention, EMBEDDINGS.get(architecture, "embed_tokens")]},
        "head": {"target_modules": [UNTIED_HEADS.get(architecture, "lm_head"), mlp]},
    }
    if architecture in WITH_BIASES:
        table |= {
            "lora_bias": {"target_modules": [attention], "lora_bias": True},
            "bias_all": {"target_modules": [mlp], "bias": "all"},
            "bias_lora_only": {"target_modules": [attention], "bias": "lora_only"},
            "dora_bias": {"target_modules": [attention], "use_dora": True, "bias": "lora_only"},
        }
    return table


BLENDS = [
    {"plain": 0.7, "rslora": 0.3},
    {"patterns": -0.4, "embedding": 1.0, "head": 0.5},
    {"lora_bias": 0.5, "bias_all": -0.5, "bias_lora_only": 1.2},
]


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_every_honoured_feature_in_one_batch(architecture: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", architecture, seed=2)
    table = features(architecture)
    paths = {
        name: save_adapter(folder, tmp_path / name, rank=4, seed=seed, **options)
        for seed, (name, options) in enumerate(table.items())
    }
    mixes = {name: {name: 1.0} for name in table}
    expected = {name: greedy(peft_model(folder, path), PROMPT, TOKENS) for name, path in paths.items()}
    for number, blend in enumerate(each for each in BLENDS if each.keys() <= table.keys()):
        mixes[f"blend{number}"] = blend
        oracle = blended_model(folder, {paths[name]: weight for name, weight in blend.items()})
        expected[f"blend{number}"] = greedy(oracle, PROMPT, TOKENS)
    mixes["base"], expected["base"] = {}, greedy(blended_model(folder, {}), PROMPT, TOKENS)
    distinct = {tuple(tokens) for tokens in expected.values()}
    assert len(distinct) > len(expected) // 2, "the adapters must change the oracle's tokens"

    base = load_base(str(folder), "fp32")
    for path in paths.values():
        check(path, base, folder)
    assert serve(base, paths, mixes) == expected


def check(path: Path, base: BaseModel, folder: Path) -> None:
    """What PEFT saves registers without a finding."""
    spec = parse_spec((path / "adapter_config.json").read_bytes())
    Checker(base.outline, base.name, str(folder))(spec, path / "adapter_model.safetensors")


def serve(
    base: BaseModel, paths: dict[str, Path], mixes: dict[str, dict[str, float]], tokens: int = TOKENS
) -> dict[str, list[int]]:
    adapters = {name: read_adapter(path, base) for name, path in paths.items()}
    config = EngineConfig(max_slots=len(mixes), prefill_tokens=11)
    engine = Engine(base, config, Vocabulary(str, frozenset()), adapters.__getitem__)
    requests = [
        Request(name, tuple(PROMPT), Sampling(max_tokens=tokens), Mix.of(Term(*each) for each in mix.items()))
        for name, mix in mixes.items()
    ]
    answers = complete(engine, requests)
    engine.close()
    assert all(ending.failure is None for _, ending in answers.values())
    return {name: [token.token_id for token in said] for name, (said, _) in answers.items()}
