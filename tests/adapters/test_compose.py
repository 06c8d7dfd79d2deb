"""Combined adapters against PEFT: its own deltas for the exact ones, its add_weighted_adapter for the others."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.compose import Ingredient, compose
from lorikeet_adapters.errors import ComposeRefused
from lorikeet_adapters.peft_files import peft_files
from lorikeet_adapters.recipe import MajoritySign, Method, Recipe
from lorikeet_adapters.spec import parse_spec
from lorikeet_adapters.weights import AdapterWeights, ModuleRows, load_weights
from tests.tiny import greedy, save_adapter, save_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*save_embedding_layers.*",
    "ignore:.*density.*",
    "ignore:.*lora_bias.*",
    "ignore:.*invalid shape.*",
)
WEIGHTS = {"a": 0.7, "b": -0.4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("compose")
    base = save_model(folder / "base", "llama")
    plain = {"target_modules": ["q_proj", "up_proj", "embed_tokens"], "lora_alpha": 8}
    return base, {
        # alpha = r: a scaling of 1, where PEFT's order of scaling and pruning is ours.
        "a": save_adapter(base, folder / "a", rank=8, seed=1, **plain),
        "b": save_adapter(base, folder / "b", rank=8, seed=2, **plain),
        "wide": save_adapter(base, folder / "wide", rank=12, seed=3, use_rslora=True, lora_alpha=5),
        "dora": save_adapter(base, folder / "dora", rank=4, seed=4, use_dora=True),
        "lora_bias": save_adapter(
            base, folder / "bias", rank=4, seed=5, lora_bias=True, target_modules=["q_proj"]
        ),
    }


@pytest.fixture(scope="module")
def base(world: tuple[Path, dict[str, Path]]) -> BaseModel:
    return load_base(str(world[0]), "fp32")


def read(folder: Path, base: BaseModel) -> AdapterWeights:
    spec = parse_spec((folder / "adapter_config.json").read_bytes())
    return load_weights(folder / "adapter_model.safetensors", spec, base.outline, torch.float32)


def ingredients(
    world: tuple[Path, dict[str, Path]], base: BaseModel, mix: dict[str, float]
) -> list[Ingredient]:
    return [Ingredient(name, weight, read(world[1][name], base)) for name, weight in mix.items()]


def peft_deltas(world: tuple[Path, dict[str, Path]], mix: dict[str, float]) -> dict[str, torch.Tensor]:
    """Sum of w * PEFT's get_delta_weight, [out, in] or [ids, dim], by module."""
    total: dict[str, torch.Tensor] = {}
    for name, weight in mix.items():
        model = AutoModelForCausalLM.from_pretrained(world[0], dtype=torch.float32)
        for module, layer in PeftModel.from_pretrained(
            model, world[1][name]
        ).base_model.model.named_modules():
            if isinstance(layer, LoraLayer):
                total[module] = total.get(module, 0) + weight * layer.get_delta_weight("default")
    return total


def delta(module: str, rows: ModuleRows) -> torch.Tensor:
    product = rows.a.T @ rows.b
    return product if "embed" in module else product.T


@pytest.mark.parametrize("mix", [WEIGHTS, {"a": 1.0, "wide": 0.5, "b": 2.0}])
def test_cat_is_the_sum_of_what_the_adapters_do(
    world: tuple[Path, dict[str, Path]], base: BaseModel, mix: dict[str, float]
) -> None:
    made = compose(Recipe(Method.CAT), ingredients(world, base, mix), seed=0)
    expected = peft_deltas(world, mix)
    assert made.modules.keys() == expected.keys()
    for module, rows in made.modules.items():
        torch.testing.assert_close(delta(module, rows), expected[module], rtol=1e-4, atol=1e-5)


def test_svd_is_the_best_of_its_rank(world: tuple[Path, dict[str, Path]], base: BaseModel) -> None:
    mix = {"a": 1.0, "wide": 0.5}
    expected = peft_deltas(world, mix)
    for rank in (3, 12, 20):
        made = compose(Recipe(Method.SVD, rank=rank), ingredients(world, base, mix), seed=0)
        for module, rows in made.modules.items():
            u, values, vh = torch.linalg.svd(expected[module], full_matrices=False)
            best = (u[:, :rank] * values[:rank]) @ vh[:rank]
            torch.testing.assert_close(delta(module, rows), best, rtol=1e-3, atol=1e-4)
            assert rows.rank <= rank


@pytest.mark.parametrize("sign", list(MajoritySign))
@pytest.mark.parametrize(
    "method", [Method.TIES, Method.DARE_LINEAR, Method.DARE_TIES, Method.MAGNITUDE_PRUNE]
)
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_the_pruning_methods_are_pefts(
    world: tuple[Path, dict[str, Path]], base: BaseModel, method: Method, sign: MajoritySign, density: float
) -> None:
    model = AutoModelForCausalLM.from_pretrained(world[0], dtype=torch.float32)
    oracle = PeftModel.from_pretrained(model, world[1]["a"], adapter_name="a")
    oracle.load_adapter(world[1]["b"], adapter_name="b")
    recipe = Recipe(method, density, sign)
    made = compose(recipe, ingredients(world, base, WEIGHTS), seed=7)
    torch.manual_seed(7)  # PEFT draws from the process's own numbers: module by module, A before B
    for module, rows in made.modules.items():
        layer = oracle.base_model.model.get_submodule(module)
        merged_a, merged_b = oracle.base_model._generalized_task_arithmetic_weighted_adapter(
            method.value, ["a", "b"], list(WEIGHTS.values()), layer, density, sign.value
        )
        torch.testing.assert_close(rows.a, merged_a)
        torch.testing.assert_close(rows.b, merged_b.T)


def test_what_dare_drops_depends_on_the_seed_alone(
    world: tuple[Path, dict[str, Path]], base: BaseModel
) -> None:
    """Whoever else composes or draws meanwhile; and nobody's numbers are changed by it."""
    parts = ingredients(world, base, WEIGHTS)

    def made(seed: int) -> list[torch.Tensor]:
        rows = compose(Recipe(Method.DARE_LINEAR, 0.5), parts, seed).modules
        return [tensor for each in sorted(rows) for tensor in (rows[each].a, rows[each].b)]

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    torch.manual_seed(1)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    alone = {seed: made(seed) for seed in range(4)}
    assert torch.equal(torch.rand(3), drawn), "the process's own random numbers go on as if nothing were"
    assert not same(alone[0], alone[1])
    with ThreadPoolExecutor(4) as pool:
        seeds = [turn % 4 for turn in range(40)]
        assert all(same(each, alone[seed]) for seed, each in zip(seeds, pool.map(made, seeds), strict=True))


@pytest.mark.parametrize(
    ("recipe", "mix", "message"),
    [
        (Recipe(Method.TIES), {"a": 1.0, "wide": 1.0}, "ties needs equal ranks; .* `a` 8, `wide` 12"),
        (Recipe(), {"a": 1.0, "dora": 1.0}, "`dora` was trained with DoRA"),
        (Recipe(), {"lora_bias": 1.0}, "`lora_bias` has trained biases"),
        (Recipe(), {"a": math.nan}, "the weight of `a`"),
        (Recipe(), {"a": 0.0}, "the weight of `a`"),
        (Recipe(), {"a": 101.0}, "the weight of `a`"),
        (Recipe(), {}, "1 to 16 adapters, not 0"),
    ],
)
def test_what_cannot_be_combined_is_refused_by_name(
    world: tuple[Path, dict[str, Path]], base: BaseModel, recipe: Recipe, mix: dict[str, float], message: str
) -> None:
    with pytest.raises(ComposeRefused, match=message):
        compose(recipe, ingredients(world, base, mix), seed=0)


@pytest.mark.parametrize("options", [{"density": 0.0}, {"density": 1.5}, {"density": math.nan}, {"rank": 4}])
def test_a_recipe_out_of_bounds(options: dict[str, float]) -> None:
    with pytest.raises(ComposeRefused):
        Recipe(Method.TIES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Method.CAT, Method.SVD])
def test_the_files_say_the_same_to_peft_and_to_us(
    world: tuple[Path, dict[str, Path]], base: BaseModel, method: Method, tmp_path: Path
) -> None:
    made = compose(Recipe(method), ingredients(world, base, {"a": 0.6, "wide": 0.4}), seed=0)
    config, tensors = peft_files(made, base.outline, base.name)
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(tensors)
    ours = read(tmp_path, base)
    for module, rows in made.modules.items():
        assert torch.equal(ours.modules[module].a, rows.a)
        assert torch.equal(ours.modules[module].b, rows.b)
    model = AutoModelForCausalLM.from_pretrained(world[0], dtype=torch.float32)
    served_by_peft = PeftModel.from_pretrained(model, tmp_path).eval()
    oracle = AutoModelForCausalLM.from_pretrained(world[0], dtype=torch.float32).eval()
    with torch.no_grad():
        for module, rows in made.modules.items():
            oracle.get_submodule(module).weight += delta(module, rows)
    assert greedy(served_by_peft, [5, 9, 3], 8) == greedy(oracle, [5, 9, 3], 8)
