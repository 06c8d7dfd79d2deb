"""One tiny base with two adapters, measured once for every test here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.arms import Bench, open_bench
from lorikeet_bench.latency import Run, measure
from lorikeet_bench.plan import Plan
from lorikeet_bench.probe import BandwidthProbe
from tests.tiny import save_adapter, save_model


@dataclass(frozen=True, slots=True)
class Measured:
    bench: Bench
    plan: Plan
    runs: tuple[Run, ...]
    labels: tuple[str, ...]  # what `advance` was told


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """The command sets torch's threads for the process; given back, and tiny models are quickest on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def tiny_base(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bench") / "base", "llama")


@pytest.fixture(scope="package")
def tiny_adapters(tiny_base: Path) -> tuple[Path, ...]:
    folder = tiny_base.parent
    return (save_adapter(tiny_base, folder / "one", 8, 1), save_adapter(tiny_base, folder / "two", 4, 2))


@pytest.fixture(scope="package")
def measured(tiny_base: Path, tiny_adapters: tuple[Path, ...]) -> Iterator[Measured]:
    plan = Plan(str(tiny_base), Quantization.FP32, (1, 4), tokens=8, prompt_tokens=6, folders=tiny_adapters)
    labels: list[str] = []
    with open_bench(plan) as bench:
        runs = measure(bench, plan, BandwidthProbe(1 << 12), labels.append)
        yield Measured(bench, plan, runs, tuple(labels))
