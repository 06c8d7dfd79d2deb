"""In every form of the base: every feature's logits against PEFT on the same weights, and what must be exact everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lorikeet_adapters.base_model import BaseModel, load_base
from lorikeet_adapters.mix import Mix, Term
from lorikeet_server.engine.geometry import Geometry, columns_for
from lorikeet_server.engine.runner import Runner
from tests.server.engine.test_exactness import read_adapter
from tests.server.engine.test_features import FILTERS, PROMPT, features
from tests.tiny import make_model, save_adapter

pytestmark = FILTERS
# Shares of the logits' standard deviation, at the 99th percentile. Only DoRA comes near: PEFT rounds the weight whose length it takes.
BOUNDS = {"fp32": 1e-4, "nf4": 0.01, "int8": 0.02}


@pytest.fixture(scope="module", params=["qwen2", "opt"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp(request.param)
    base = folder / "base"
    # Weights that bfloat16 holds exactly, as real checkpoints have: PEFT loads an adapter's copy of the
    # embedding as it is in the file, and the base's own may not be a rounded one.
    make_model(request.param, seed=3).bfloat16().save_pretrained(base)
    table = features(request.param)
    return base, {
        name: save_adapter(base, folder / name, rank=4, seed=seed, **options)
        for seed, (name, options) in enumerate(table.items())
    }


@pytest.fixture(params=list(BOUNDS))
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def base(world: tuple[Path, dict[str, Path]], kind: str) -> BaseModel:
    return load_base(str(world[0]), kind)


def make_runner(base: BaseModel, adapters: dict[str, Path]) -> Runner:
    runner = Runner(base, Geometry(2, 64, 2 * columns_for(64), 128), rows=256)
    for name, path in adapters.items():
        runner.rank_rows.insert(name, read_adapter(path, base))
    return runner


def logits(base: BaseModel, runner: Runner, mix: dict[str, float]) -> torch.Tensor:
    with runner.rank_rows.step([Mix.of(Term(*each) for each in mix.items())]):
        out: torch.Tensor = base.model(input_ids=torch.tensor([PROMPT])).logits[0].float()
        return out


@torch.no_grad()
def test_every_feature_is_what_peft_computes_on_the_same_quantised_base(
    world: tuple[Path, dict[str, Path]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 on every processor: what differs then is not rounding."""
    monkeypatch.setattr("lorikeet_adapters.base_model.bfloat16_is_fast", lambda device: False)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    base = load_base(str(world[0]), kind)
    assert base.compute_dtype is torch.float32
    for name, gap, changed in compared(world, base):
        assert gap <= BOUNDS[kind], name
        assert changed > 2 * BOUNDS[kind], f"{name} must change more than the bound forgives"


@torch.no_grad()
def test_every_feature_is_applied_in_the_arithmetic_of_this_processor(
    world: tuple[Path, dict[str, Path]], base: BaseModel
) -> None:
    """Where that is bfloat16, with layers packed for it, rounding is large; an adapter that is left out is larger."""
    for name, gap, changed in compared(world, base):
        assert 2 * gap < changed, name


def compared(world: tuple[Path, dict[str, Path]], base: BaseModel) -> Iterator[tuple[str, float, float]]:
    """(adapter, how far from PEFT, how far PEFT is from the base alone), as `BOUNDS` measure."""
    folder, adapters = world
    runner = make_runner(base, adapters)
    plain = logits(base, runner, {})
    for name, path in adapters.items():
        # A copy of its own, unpacked: PEFT reads the weights of a DoRA layer, and so must the oracle.
        model = load_base(str(folder), base.quantization, for_training=True).model
        oracle = PeftModel.from_pretrained(model, path).eval()(input_ids=torch.tensor([PROMPT])).logits[0]
        apart = [
            (each - oracle.float()).abs() / oracle.std()
            for each in (logits(base, runner, {name: 1.0}), plain)
        ]
        yield name, *(float(torch.quantile(each, 0.99)) for each in apart)
    runner.rank_rows.detach()


@torch.no_grad()
def test_weight_zero_and_a_reused_place_leave_nothing_behind(
    world: tuple[Path, dict[str, Path]], base: BaseModel
) -> None:
    """Bit for bit: with weight 0 against the base, and A again after B had A's rows."""
    _, adapters = world
    empty = make_runner(base, {})
    plain = logits(base, empty, {})
    empty.rank_rows.detach()
    runner = make_runner(base, {})
    for first, second in (("plain", "dora"), ("dora", "bias_all"), ("embedding", "head")):
        if not {first, second} <= adapters.keys():
            continue
        runner.rank_rows.insert(first, read_adapter(adapters[first], base))
        once = logits(base, runner, {first: 1.0})
        assert not torch.equal(once, plain)
        assert torch.equal(logits(base, runner, {first: 0.0}), plain)
        runner.rank_rows.evict(first)
        runner.rank_rows.insert(second, read_adapter(adapters[second], base))
        logits(base, runner, {second: 1.0})
        runner.rank_rows.evict(second)
        runner.rank_rows.insert(first, read_adapter(adapters[first], base))
        assert torch.equal(logits(base, runner, {first: 1.0}), once)
        runner.rank_rows.evict(first)
        assert torch.equal(logits(base, runner, {}), plain)
    runner.rank_rows.detach()
