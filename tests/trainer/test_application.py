"""What a parent's or a merged adapter's config says reaches PEFT only as far as our own schema has read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import Mix, Term
from lorikeet_adapters.quantization import Quantization
from lorikeet_adapters.spec import parse_spec
from lorikeet_trainer.application import apply_adapter
from lorikeet_trainer.judge import HeldBase
from lorikeet_trainer.merge import Merge, merge_into
from lorikeet_trainer.parentage import adopt
from lorikeet_trainer.recipe import Recipe
from lorikeet_trainer.tuner import adapt
from tests.tiny import peft_model, save_adapter, save_model

TOKENS = torch.tensor([[72, 105, 33, 5, 200]])
# No regular expression: whoever executes one of these fails. One that never ends is as easily written.
PATTERNS = {
    "target_modules": "(.*q_proj",
    "exclude_modules": "(",
    "layers_to_transform": 0,
    "layers_pattern": "(",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("application") / "base", "qwen2")


def loaded(base: Path) -> BaseModel:
    return load_base(str(base), "fp32")


def hostile(plain: Path, out: Path) -> Path:
    shutil.copytree(plain, out)
    config = json.loads((out / "adapter_config.json").read_text())
    text = json.dumps({**config, **PATTERNS, "lora_dropout": 0.9})
    (out / "adapter_config.json").write_text(text)
    parse_spec(text.encode())  # the schema takes it: the tensors say what was adapted
    return out


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(TOKENS).logits
    return found


@pytest.mark.safety("security 5")
def test_a_parents_patterns_are_not_executed_and_its_dropout_is_not_taken(base: Path, tmp_path: Path) -> None:
    plain = save_adapter(base, tmp_path / "plain", rank=4, seed=1, target_modules=["q_proj"])
    parent, model = hostile(plain, tmp_path / "hostile"), loaded(base)
    recipe = adopt(Recipe(quantization=Quantization.FP32), parent, model)
    assert recipe.target_modules == ("q_proj",)
    adapted = adapt(model, recipe.plan(10, 64, recipe.target_modules), parent)
    config = adapted.peft_config["default"]
    assert (config.target_modules, config.lora_dropout) == ({"q_proj"}, 0.0)
    assert (config.exclude_modules, config.layers_pattern) == (None, None)
    assert any(each.requires_grad for each in adapted.parameters())
    torch.testing.assert_close(logits(adapted), logits(peft_model(base, plain)))


@pytest.mark.safety("security 5")
def test_a_merged_adapters_patterns_are_not_executed(base: Path, tmp_path: Path) -> None:
    plain = save_adapter(base, tmp_path / "plain", rank=4, seed=1, target_modules=["q_proj"])
    folders = {"bad": hostile(plain, tmp_path / "hostile")}
    merged = merge_into(loaded(base), Merge(Mix.of([Term("bad", 1)]), folders, HeldBase(str(base), "fp32")))
    torch.testing.assert_close(logits(merged), logits(peft_model(base, plain)), rtol=1e-4, atol=1e-4)


KINDS: dict[str, dict[str, Any]] = {
    "everything": {},
    "one layer of two": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "by expression": {"target_modules": r".*layers\.0\.self_attn\.[qk]_proj"},
    "ranks and alphas": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8},
        "alpha_pattern": {"v_proj": 3},
    },
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True, "target_modules": ["q_proj"]},
    "all biases": {"bias": "all", "target_modules": ["o_proj"]},
    "own biases": {"bias": "lora_only", "target_modules": ["q_proj", "o_proj"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"]},
}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:Adapter .default.. 2 LoRA tensor:UserWarning"
)  # its bias, which PEFT itself wrote
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_what_is_applied_is_what_peft_applies(base: Path, options: dict[str, Any], tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", rank=4, seed=1, **options)
    theirs, model = peft_model(base, folder), loaded(base)
    ours = apply_adapter(model.model, model.outline, folder)
    assert torch.equal(logits(ours), logits(theirs))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    trained = ours.peft_config["default"]
    assert trained.bias == options.get("bias", "none")
    bare = logits(loaded(base).model)
    assert not torch.allclose(logits(ours), bare, atol=1e-3)


def test_transposed_modules_are_applied_as_peft_does(tmp_path: Path) -> None:
    base = save_model(tmp_path / "gpt2", "gpt2")
    folder = save_adapter(base, tmp_path / "adapter", rank=4, seed=1, target_modules=["c_attn", "c_proj"])
    model = loaded(base)
    ours = apply_adapter(model.model, model.outline, folder)
    assert torch.equal(logits(ours), logits(peft_model(base, folder)))
