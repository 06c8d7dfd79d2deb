"""Config and weights that contradict each other: PEFT's own rule says which module a config leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from transformers import AutoModelForCausalLM

from lorikeet_adapters.base_model import outline
from lorikeet_adapters.check import Checker
from lorikeet_adapters.errors import AdapterRefused
from lorikeet_adapters.reach import read_reach
from lorikeet_adapters.spec import parse_spec
from tests.tiny import save_adapter, save_model

MODULES = [
    "lm_head",
    "model.embed_tokens",
    *(
        f"model.layers.{layer}.{leaf}"
        for layer in (0, 1, 11)
        for leaf in ("self_attn.q_proj", "self_attn.kv_proj", "mlp.experts.3.up_proj")
    ),
    "transformer.h.1.attn.c_attn",
]
NAMES = [
    "q_proj",
    "proj",
    "kv_proj",
    "up_proj",
    "lm_head",
    "self_attn.q_proj",
    "c_attn",
    "layers.1.self_attn.q_proj",
]
names = st.lists(st.sampled_from([*NAMES, *MODULES]), max_size=4)


@settings(max_examples=400, deadline=None)
@given(
    targets=names,
    excluded=names,
    layers=st.none() | st.integers(0, 11) | st.lists(st.integers(0, 11), max_size=3),
    stems=st.none() | st.sampled_from(["layers", "h", ["h", "layers"], []]),
)
def test_what_pefts_rule_leaves_out_is_found_and_nothing_else(
    targets: list[str], excluded: list[str], layers: Any, stems: Any
) -> None:
    config = {
        "target_modules": targets,
        "exclude_modules": excluded or None,
        "layers_to_transform": layers,
        "layers_pattern": None if layers is None else stems,  # PEFT wants both
    }
    theirs = LoraConfig(**config)
    theirs.target_modules = set(targets)  # an empty list would be taken for none at all
    for module in MODULES:
        reached = check_target_module_exists(theirs, module)
        leaves_out = not reached or isinstance(reached, _ExcludedModule)
        assert bool(read_reach(config).judge([module])) is leaves_out, (module, reached)


@pytest.mark.safety("security 5")
def test_a_pattern_is_never_executed_and_never_judged() -> None:
    for config in (
        {"target_modules": ".*nothing"},
        {"target_modules": "all-linear", "exclude_modules": "(a+)+$"},
        {"target_modules": ["q_proj"], "layers_to_transform": [7], "layers_pattern": "(l+)+ayers"},
    ):
        assert read_reach(config).judge(["model.layers.0.self_attn.q_proj"]) == []


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("reach") / "base", "llama")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"target_modules": ["query_key_value"]}, "target_modules"),
        ({"exclude_modules": ["v_proj"]}, "exclude_modules"),
        ({"layers_to_transform": [1]}, "layers_to_transform"),
        ({"layers_to_transform": 0, "layers_pattern": "layers"}, "layers_to_transform"),
    ],
)
def test_weights_that_peft_would_leave_out_are_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    folder = save_adapter(base, tmp_path / "a", rank=2, seed=1, target_modules=["q_proj", "v_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    check = Checker(outline(str(base)), "base", str(base))
    with pytest.raises(AdapterRefused) as refused:
        check(parse_spec((folder / "adapter_config.json").read_bytes()), folder / "adapter_model.safetensors")
    assert [(each.code, each.field) for each in refused.value.findings] == [("not_targeted", field)]
    model = AutoModelForCausalLM.from_pretrained(base)
    try:
        adapted = PeftModel.from_pretrained(model, folder)
    except ValueError:
        return  # nothing is left for PEFT to adapt
    reached = {name for name, _ in adapted.named_modules() if name.endswith(".lora_A")}
    assert 0 < len(reached) < 4, "PEFT has left some of the four modules out"
