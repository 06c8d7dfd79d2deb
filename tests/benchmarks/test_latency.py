"""Every arm is what its name says, by the tokens PEFT and transformers give, and all are run alike."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lorikeet_adapters.quantization import Quantization
from lorikeet_bench.arms import EngineArm, open_bench
from lorikeet_bench.label import Label
from lorikeet_bench.latency import count_batches, make_prompts, measure
from lorikeet_bench.machine import describe_machine
from lorikeet_bench.markdown import render
from lorikeet_bench.plan import Plan
from lorikeet_bench.probe import BandwidthProbe
from lorikeet_bench.report import make_document, summarise
from tests.benchmarks.conftest import Measured
from tests.tiny import blended_model, greedy, make_model, peft_model, save_adapter

BASE, MERGED, ADAPTER = Label("base"), Label("merged"), Label("adapter", (8,))
BLEND, MIXED = Label("blend", (8, 4)), Label("mixed", (8, 4, 16, 16))
PEFT, TRANSFORMERS = Label("peft", (8,)), Label("transformers")
CELLS = [
    *((1, arm) for arm in (BASE, MERGED, ADAPTER, BLEND, PEFT, TRANSFORMERS)),
    *((4, arm) for arm in (BASE, MERGED, ADAPTER, BLEND, MIXED, PEFT, TRANSFORMERS)),
]


def tokens_of(measured: Measured, label: Label, batch: int = 4) -> tuple[tuple[int, ...], ...]:
    """The arm's tokens, which every repetition must repeat."""
    (only,) = {run.timed.tokens for run in measured.runs if (run.label, run.batch) == (label, batch)}
    return only


def test_rounds_run_every_arm_once_in_one_order(measured: Measured) -> None:
    assert [(run.batch, run.label) for run in measured.runs] == CELLS * measured.plan.repetitions


def test_warm_up_stands_apart_and_progress_counts_it(measured: Measured) -> None:
    assert list(measured.labels[: len(CELLS)]) == [f"warming up {arm}" for _, arm in CELLS]
    assert len(measured.labels) == len(measured.runs) + len(CELLS)
    assert len(measured.labels) == count_batches(measured.bench, measured.plan)


def test_tokens_counted_are_tokens_asked_for(measured: Measured) -> None:
    for run in measured.runs:
        timed = run.timed
        assert [len(row) for row in timed.tokens] == [measured.plan.tokens] * run.batch
        assert run.output_tokens == run.batch * measured.plan.tokens
        assert 0 < timed.ttft_s < timed.duration_s
        assert 0 < timed.tpot_s * (measured.plan.tokens - 1) < timed.duration_s


@pytest.mark.parametrize("batch", [1, 4])
def test_base_and_adapter_arms_equal_the_oracles(
    measured: Measured, tiny_base: Path, tiny_adapters: tuple[Path, ...], batch: int
) -> None:
    prompts = make_prompts(measured.plan, measured.bench.vocabulary)[:batch]
    weights = dict(zip(tiny_adapters, (0.7, 0.3), strict=True))
    oracles = {
        BASE: make_model("llama"),
        ADAPTER: peft_model(tiny_base, tiny_adapters[0]),
        PEFT: peft_model(tiny_base, tiny_adapters[0]),
        BLEND: blended_model(tiny_base, weights),
    }
    for label, oracle in oracles.items():
        expected = tuple(tuple(greedy(oracle, list(prompt), measured.plan.tokens)) for prompt in prompts)
        assert tokens_of(measured, label, batch) == expected, label


def test_mixed_rows_each_have_an_adapter_of_their_own(measured: Measured, tiny_base: Path) -> None:
    prompts = make_prompts(measured.plan, measured.bench.vocabulary)
    folders = [adapter.folder for adapter in measured.bench.sets[0].adapters]
    expected = tuple(
        tuple(greedy(peft_model(tiny_base, folder), list(prompt), measured.plan.tokens))
        for folder, prompt in zip(folders, prompts, strict=True)
    )
    assert tokens_of(measured, MIXED) == expected


def test_arms_differ_where_they_should_and_merged_equals_unmerged(measured: Measured) -> None:
    tokens = {label: tokens_of(measured, label) for label in (BASE, ADAPTER, BLEND, MIXED)}
    assert len(set(tokens.values())) == len(tokens)
    for same in (MERGED, TRANSFORMERS, PEFT):
        assert tokens_of(measured, same) == tokens[ADAPTER], same


def test_the_merged_arm_carries_no_rows(measured: Measured) -> None:
    engines = {arm.label: arm.engine for arm in measured.bench.arms if isinstance(arm, EngineArm)}
    assert engines[MERGED].runner.rank_rows.resident == {}
    assert len(engines[BASE].runner.rank_rows.resident) == 4
    assert measured.bench.merged.quantization is measured.bench.base.quantization
    assert measured.bench.merged.fingerprint != measured.bench.base.fingerprint


def test_pefts_mixed_batch_gives_each_row_its_own_adapter(
    tiny_base: Path, tiny_adapters: tuple[Path, ...]
) -> None:
    """And several ranks make several sets, each with arms of its own."""
    plan = Plan(
        str(tiny_base), Quantization.NF4, (8,), tokens=4, prompt_tokens=6, ranks=(2, 4), adapters=(1, 8)
    )
    with open_bench(plan) as bench:
        arms = {str(arm.label): arm for arm in bench.arms}
        assert list(arms) == [
            *("base", "merged", "merged-16bit"),
            *("adapter r2", "blend x2 r2", "mixed x8 r2", "adapter r4", "blend x2 r4", "mixed x8 r4"),
            *("peft r2", "peft x8 r2", "transformers"),
        ]
        prompts = make_prompts(plan, bench.vocabulary)
        parameters = dict(bench.arms[-2].model.named_parameters())  # type: ignore[attr-defined]
        theirs = {each.dtype for name, each in parameters.items() if "lora_" in name}
        assert theirs == {bench.base.compute_dtype}, "the work is the same in the same precision"
        peft, ours = (arms[name].run(prompts, plan.tokens).tokens for name in ("peft x8 r2", "mixed x8 r2"))
    # One NF4 base in two implementations: first tokens agree but for ties, later ones follow from them.
    assert sum(a[0] == b[0] for a, b in zip(peft, ours, strict=True)) >= 7
    assert len(set(peft)) > 1


def test_nothing_waits_or_is_left_over_once_warm(measured: Measured) -> None:
    """All prompts of a batch take one step, and slots are given back before the next batch starts."""
    plan = measured.plan
    prompts = make_prompts(plan, measured.bench.vocabulary)
    for arm in measured.bench.arms:
        if not isinstance(arm, EngineArm):
            continue
        before = arm.engine.stats.steps
        arm.run(prompts, plan.tokens)
        assert arm.engine.stats.steps - before == plan.tokens, arm.label
        assert arm.engine.stats.evictions == 0
        assert arm.engine.runner.slots_used == 0


@pytest.mark.parametrize(
    ("more", "arms", "left_out"),
    [
        (
            {"use_dora": True},
            ["base", "merged", "adapter r4", "mixed x2 r4+16", "transformers"],
            [
                "blend x2 r4+16 is left out: odd is a DoRA",
                "peft r4 is left out: PEFT has no `adapter_names` for a DoRA",
            ],
        ),
        (
            {"lora_bias": True},  # llama's modules have no bias that it could be added to
            ["base", "adapter r4", "blend x2 r4+16", "mixed x2 r4+16", "peft r4"],
            [
                "what runs on merged weights is left out: odd cannot be merged: Impossible to merge LoRA with `lora_bias=True`"
            ],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed", "ignore:Adapter 'default'. 14 LoRA tensor")
def test_an_arm_that_cannot_be_is_left_out_and_it_is_said(
    tiny_base: Path, tmp_path: Path, more: dict[str, object], arms: list[str], left_out: list[str]
) -> None:
    folder = save_adapter(tiny_base, tmp_path / "odd", 4, 1, **more)
    plan = Plan(str(tiny_base), Quantization.FP32, (2,), tokens=2, folders=(folder,), adapters=(1, 2))
    with open_bench(plan) as bench:
        names = [str(arm.label) for arm in bench.arms]
        runs = measure(bench, plan, BandwidthProbe(1 << 12), lambda label: None)
        document = make_document(bench, plan, describe_machine(), summarise(runs), datetime.now(UTC))
    assert names == arms
    assert {str(run.label) for run in runs} == {*names}
    for told, wanted in zip(document["left_out"], left_out, strict=True):
        assert told.startswith(wanted), told
    page = render({"odd": document}, {})
    assert all(told in page for told in document["left_out"])
