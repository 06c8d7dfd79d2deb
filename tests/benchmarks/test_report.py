"""The numbers in the document are those of the runs, under the names that are promised."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from statistics import median
from typing import Any

import pytest
from rich.console import Console

from lorikeet_bench.label import Label
from lorikeet_bench.latency import Run
from lorikeet_bench.machine import describe_machine
from lorikeet_bench.plan import Plan
from lorikeet_bench.report import make_document, make_table, result_row, summarise
from lorikeet_bench.timed import Timed
from tests.benchmarks.conftest import Measured

PLAN = Plan(batches=(2,), tokens=3, prompt_tokens=10)
TOKENS = ((1, 2, 3), (4, 5, 6))


def runs_of(arm: str, milliseconds: list[float]) -> list[Run]:
    return [
        Run(Label(arm), 2, Timed(4 * ms / 1e3, ms / 1e3, 6 * ms / 1e3, TOKENS), ms * 1e9)
        for ms in milliseconds
    ]


def rows() -> dict[str, dict[str, Any]]:
    base = runs_of("base", [10, 12, 11, 10, 40])
    adapter = runs_of("adapter", [20, 24, 22, 20, 80])
    merged = runs_of("merged", [5, 6, 5.5, 5, 20])
    results = summarise([run for three in zip(base, adapter, merged, strict=True) for run in three])
    return {result.label.arm: result_row(result, PLAN) for result in results}


def test_units_medians_and_counts() -> None:
    row = rows()["base"]
    assert row["median_tpot_ms"] == pytest.approx(11)
    assert row["mean_tpot_ms"] == pytest.approx(16.6)
    assert row["median_ttft_ms"] == pytest.approx(44)
    assert row["output_throughput"] == pytest.approx(6 / 0.066)
    assert row["prefill_throughput"] == pytest.approx(20 / 0.044)
    assert (row["completed"], row["total_input_tokens"], row["total_output_tokens"]) == (10, 100, 30)
    assert row["duration"] == pytest.approx(6 * 0.083)
    assert row["median_bandwidth_gb_s"] == pytest.approx(11)


def test_ratios_are_arm_over_baseline() -> None:
    found = rows()
    assert not any(key.startswith("tpot_ratio") for key in found["base"])
    assert found["adapter"]["tpot_ratio_to_base"] == pytest.approx(2)
    assert found["adapter"]["tpot_ratio_to_base_low"] == pytest.approx(2)
    assert found["adapter"]["tpot_ratio_to_merged"] == pytest.approx(4)
    assert found["merged"]["tpot_ratio_to_base"] == pytest.approx(0.5)
    assert "tpot_ratio_to_merged" not in found["merged"]


def test_the_document_counts_what_was_measured(measured: Measured) -> None:
    results = summarise(measured.runs)
    document = make_document(
        measured.bench, measured.plan, describe_machine(), results, datetime(2026, 1, 2, tzinfo=UTC)
    )
    assert document["date"] == "2026-01-02T00:00:00+00:00"
    assert (document["quantization"], document["dtype"]) == ("fp32", "float32")
    assert (document["hidden_size"], document["num_hidden_layers"], document["model_type"]) == (
        64,
        2,
        "llama",
    )
    assert document["adapters"] == "random"  # two of the four are
    assert document["adapter_origins"] == ["given", "given", "random", "random"]
    assert document["adapter_ranks"] == [8, 4, 16, 16]
    assert document["left_out"] == []
    assert all(each["wanted"].startswith((">=", "<=")) for each in document["targets"])
    assert all(each["low"] <= each["value"] <= each["high"] for each in document["targets"])
    for row in document["results"]:
        assert row["total_output_tokens"] == row["completed"] * measured.plan.tokens
        assert row["completed"] == row["batch"] * measured.plan.repetitions
        label = Label(row["arm"], tuple(row["ranks"]))
        own = [run for run in measured.runs if (run.label, run.batch) == (label, row["batch"])]
        assert row["median_tpot_ms"] == pytest.approx(median(run.timed.tpot_s for run in own) * 1e3)


def test_the_table_fits_a_pipe_and_shows_every_arm(measured: Measured) -> None:
    results = summarise(measured.runs)
    document = make_document(measured.bench, measured.plan, describe_machine(), results, datetime.now(UTC))
    console = Console(file=io.StringIO(), width=80)
    console.print(make_table(document, results))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("base", "adapter", "merged", "blend", "mixed", "TPOT / base", "GB/s", "5 interleaved"):
        assert word in text, word
    assert "TPOT adapter r8 / merged at batch 4: " in text
    assert max(map(len, text.splitlines())) <= 80
