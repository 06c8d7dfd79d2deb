"""Every arm is what its name says, by the tokens PEFT and transformers give, and all are run alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorikeet_bench.latency import count_batches, make_prompts, run_batch
from lorikeet_bench.probe import BandwidthProbe
from tests.benchmarks.conftest import Measured
from tests.tiny import blended_model, greedy, make_model, peft_model

CELLS = [
    *((1, arm) for arm in ("base", "adapter", "merged", "blend")),
    *((4, arm) for arm in ("base", "adapter", "merged", "blend", "mixed")),
]


def tokens_of(measured: Measured, arm: str, batch: int = 4) -> tuple[tuple[int, ...], ...]:
    """The arm's tokens, which every repetition must repeat."""
    (only,) = {run.tokens for run in measured.runs if (run.arm, run.batch) == (arm, batch)}
    return only


def test_rounds_run_every_arm_once_in_one_order(measured: Measured) -> None:
    assert [(run.batch, run.arm) for run in measured.runs] == CELLS * measured.plan.repetitions


def test_warm_up_stands_apart_and_progress_counts_it(measured: Measured) -> None:
    assert list(measured.labels[: len(CELLS)]) == [f"warming up {arm}" for _, arm in CELLS]
    assert len(measured.labels) == len(measured.runs) + len(CELLS)
    assert len(measured.labels) == count_batches(measured.bench, measured.plan)


def test_tokens_counted_are_tokens_asked_for(measured: Measured) -> None:
    for run in measured.runs:
        assert [len(row) for row in run.tokens] == [measured.plan.tokens] * run.batch
        assert run.output_tokens == run.batch * measured.plan.tokens
        assert 0 < run.ttft_s < run.duration_s
        assert 0 < run.tpot_s * (measured.plan.tokens - 1) < run.duration_s


@pytest.mark.parametrize("batch", [1, 4])
def test_base_and_adapter_arms_equal_the_oracles(
    measured: Measured, tiny_base: Path, tiny_adapters: tuple[Path, ...], batch: int
) -> None:
    prompts = make_prompts(measured.plan, measured.bench.vocabulary)[:batch]
    weights = dict(zip(tiny_adapters, (0.7, 0.3), strict=True))
    oracles = {
        "base": make_model("llama"),
        "adapter": peft_model(tiny_base, tiny_adapters[0]),
        "blend": blended_model(tiny_base, weights),
    }
    for arm, oracle in oracles.items():
        expected = tuple(tuple(greedy(oracle, list(prompt), measured.plan.tokens)) for prompt in prompts)
        assert tokens_of(measured, arm, batch) == expected, arm


def test_mixed_rows_each_have_an_adapter_of_their_own(measured: Measured, tiny_base: Path) -> None:
    prompts = make_prompts(measured.plan, measured.bench.vocabulary)
    folders = [adapter.folder for adapter in measured.bench.adapters]
    expected = tuple(
        tuple(greedy(peft_model(tiny_base, folder), list(prompt), measured.plan.tokens))
        for folder, prompt in zip(folders, prompts, strict=True)
    )
    assert tokens_of(measured, "mixed") == expected


def test_arms_differ_where_they_should_and_merged_equals_unmerged(measured: Measured) -> None:
    tokens = {arm: tokens_of(measured, arm) for arm in ("base", "adapter", "blend", "mixed")}
    assert len(set(tokens.values())) == len(tokens)
    assert tokens_of(measured, "merged") == tokens["adapter"]


def test_the_merged_arm_carries_no_rows(measured: Measured) -> None:
    engines = {arm.name: arm.engine for arm in measured.bench.arms}
    assert engines["merged"].runner.rank_rows.resident == {}
    assert len(engines["base"].runner.rank_rows.resident) == 4
    assert measured.bench.merged.quantization is measured.bench.base.quantization
    assert measured.bench.merged.fingerprint != measured.bench.base.fingerprint


def test_nothing_waits_or_is_left_over_once_warm(measured: Measured) -> None:
    """All prompts of a batch take one step, and slots are given back before the next batch starts."""
    plan = measured.plan
    prompts = make_prompts(plan, measured.bench.vocabulary)
    for arm in measured.bench.arms:
        before = arm.engine.stats.steps
        run_batch(arm, prompts, plan.tokens, BandwidthProbe(1 << 12))
        assert arm.engine.stats.steps - before == plan.tokens, arm.name
        assert arm.engine.stats.evictions == 0
        assert arm.engine.runner.slots_used == 0
