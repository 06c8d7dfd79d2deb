"""A random model is one that everything else takes for a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lorikeet_adapters.base_model import load_base
from lorikeet_adapters.source import WEIGHTS_FILE, open_folder
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import load_weights
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.random_model import make_model
from lorikeet_bench.shapes import SHAPES, Shape, shape_of

SMALL = Shape("qwen2", 64, 2, 4, 2, 128, 512, tied=True, context=256)
# Parameters as their makers publish them, in millions; embeddings count once where they are tied.
PUBLISHED = {
    "smollm2-135m": 135,
    "qwen2.5-0.5b": 494,
    "llama-3.2-1b": 1236,
    "qwen2.5-1.5b": 1544,
    "qwen3-4b": 4022,
    "llama-3-8b": 8030,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_parameters_of_the_model_it_is_named_after(name: str) -> None:
    shape = shape_of(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.model_type, **shape.config()))
    assert model.num_parameters() / 1e6 == pytest.approx(PUBLISHED[name], rel=0.005)


def test_the_folder_serves_as_a_base_and_its_adapters_fit(tmp_path: Path) -> None:
    folder = make_model(SMALL, tmp_path / "base", adapters=2, rank=4, seed=3)
    assert [each.name for each in tmp_path.iterdir()] == ["base"]
    base = load_base(str(folder), "fp32")
    held = []
    for place in range(2):
        where = folder / "adapters" / f"random-{place}"
        with open_folder(where) as files:
            held.append(
                load_weights(where / WEIGHTS_FILE, parse_spec(files.config), base.outline, torch.float32)
            )
    assert [each.rank for each in held] == [4, 4]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("order chair", "Gr\u00fc\u00dfe, 42 \u4f60\u597d!"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == SMALL.vocabulary
    assert all(tokenizer.decode([each]) for each in range(SMALL.vocabulary))


def test_the_same_seed_makes_the_same_model(tmp_path: Path) -> None:
    made = [make_model(SMALL, tmp_path / name, adapters=0, rank=4, seed=5) for name in "ab"]
    first, second = (each.joinpath("model.safetensors").read_bytes() for each in made)
    assert first == second


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(PlanRefused, match="exists"):
        make_model(SMALL, tmp_path, adapters=0, rank=4, seed=0)
    with pytest.raises(PlanRefused, match="smollm2-135m"):
        shape_of("gpt-5")
