"""The command from flags to the last line of its output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lorikeet_adapters.errors import RefusedError
from lorikeet_bench.cli import register

KEYS = {
    "model_id", "model_type", "num_hidden_layers", "hidden_size", "vocab_size", "linear_parameters",
    "quantization", "dtype", "device", "threads", "torch_version", "commit", "cpu_model", "cpu_count",
    "adapters", "adapter_ranks", "input_len", "output_len", "repetitions", "median_bandwidth_gb_s", "results",
}  # fmt: skip
ROW_KEYS = {
    "arm", "batch", "completed", "total_input_tokens", "total_output_tokens", "duration",
    "output_throughput", "mean_ttft_ms", "median_ttft_ms", "mean_tpot_ms", "median_tpot_ms", "std_tpot_ms",
}  # fmt: skip


def make_app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    return app


def test_latency_prints_a_table_and_ends_with_the_document(tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--model", str(tiny_base), "--quantization", "nf4", "--batch", "2", "--tokens", "3"]
    options += [
        "--prompt-tokens",
        "5",
        "--ranks",
        "4",
        "--adapters",
        "1,2",
        "--no-peers",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(make_app(), ["bench", "latency", *options], catch_exceptions=False)
    assert done.exit_code == 0
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads(out.read_text())
    assert document.keys() >= KEYS
    assert (document["quantization"], document["threads"], document["adapters"]) == ("nf4", 1, "random")
    assert document["adapter_ranks"] == [4] * 2
    arms = ["base", "merged", "merged-16bit", "adapter", "blend", "mixed"]
    assert [row["arm"] for row in document["results"]] == arms
    for row in document["results"]:
        assert row.keys() >= ROW_KEYS
        assert row["total_output_tokens"] == 2 * 3 * 5
        assert row["total_input_tokens"] == 2 * 5 * 5
    assert "TPOT / base" in done.stdout


def test_prefix_measures_both_arms_on_base_and_adapter(tiny_base: Path) -> None:
    options = ["--model", str(tiny_base), "--quantization", "fp32", "--prefix-tokens", "40"]
    options += ["--prompt-tokens", "3", "--repeat", "5", "--rank", "4", "--threads", "1"]
    done = CliRunner().invoke(make_app(), ["bench", "prefix", *options], catch_exceptions=False)
    assert done.exit_code == 0
    document = json.loads(done.stdout.splitlines()[-1])
    assert (document["benchmark"], document["prefix_len"], document["input_len"]) == ("prefix", 40, 43)
    assert [row["mix"] for row in document["results"]] == ["base", "adapter"]
    for row in document["results"]:
        low, high = (row[f"ttft_ratio_fresh_to_kept_{end}"] for end in ("low", "high"))
        assert 0 < low <= row["ttft_ratio_fresh_to_kept"] <= high
    assert "fresh / kept" in done.stdout


def run(command: str, *options: str) -> tuple[dict[str, Any], str]:
    """The document and everything printed."""
    done = CliRunner().invoke(make_app(), ["bench", command, *options], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_scale_evicts_only_where_rows_are_few(tiny_base: Path) -> None:
    options = ["--model", str(tiny_base), "--quantization", "fp32", "--names", "8,20", "--few", "8"]
    document, shown = run("scale", *options, "--rank", "2", "--requests", "30", "--threads", "1")
    found = {(row["names"], row["arm"]): row for row in document["results"]}
    assert found.keys() == {(8, "all"), (20, "all"), (20, "few"), (20, "few, read")}
    assert found[8, "all"]["throughput_ratio"] == 1.0
    for cell, row in found.items():
        assert (row["evictions_a_pass"] > 0) is (cell in {(20, "few"), (20, "few, read")}), cell
        assert (row["returns_a_pass"] > 0) is (cell == (20, "few")), cell
        assert (row["loads_a_pass"] > 0) is (cell == (20, "few, read")), cell
        assert row["touched_a_pass"] <= cell[0]
        assert row["resident_after"] == (20 if cell == (20, "all") else 8)
        assert len(row["samples_pass_s"]) == document["repetitions"]
        assert 0 < row["p50_ttft_ms"] <= row["p99_ttft_ms"]
    assert [each["name"].split("rows for ")[1] for each in document["targets"]] == ["all", "few", "few, read"]
    assert "tok/s over 8" in shown


def test_swap_tells_reading_from_waiting_from_stalling(tiny_base: Path) -> None:
    options = ["--model", str(tiny_base), "--quantization", "fp32", "--rank", "4", "--repeat", "5"]
    document, shown = run("swap", *options, "--threads", "1")
    found = {row["figure"]: row for row in document["results"]}
    assert list(found) == ["read", "cold", "warm", "gap", "beside", "stall"]
    assert all(0 < row["median_ms"] <= row["max_ms"] for row in found.values())
    assert all(len(row["samples_ms"]) == 5 for row in found.values())
    assert [each["wanted"] for each in document["targets"]] == ["<= 50", "<= 1"]
    assert "adapter on disk" in shown


def test_fidelity_ranks_the_forms_and_tells_adapter_from_base() -> None:
    document, _ = run("fidelity", "--rows", "1", "--threads", "1")
    found = {(row["arm"], row["quantization"]): row for row in document["results"]}
    assert len(found) == 9
    for form in ("bf16", "int8", "nf4"):
        for arm in ("adapter", "merged"):
            assert found[arm, form]["mean_kl"] < 0.05 < found["base alone", form]["mean_kl"]
            assert found[arm, form]["top1_agreement"] > 0.95 > found["base alone", form]["top1_agreement"]
    for arm in ("adapter", "merged"):
        assert 0 < found[arm, "bf16"]["mean_kl"] < found[arm, "nf4"]["mean_kl"], arm


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("scale", ["--names", "0"], "--names"),
        ("scale", ["--few", "2"], "--few"),
        ("scale", ["--names", "a"], "--names"),
        ("swap", ["--repeat", "1"], "--repeat"),
        ("fidelity", ["--rows", "0"], "--rows"),
        ("serving", ["--url", "localhost:8000"], "--url"),
        ("serving", ["--models", ","], "--models"),
        ("serving", ["--goodput", "ttft"], "--goodput"),
        ("make-model", ["--shape", "none", "--out", "x"], "--shape"),
    ],
)
def test_a_run_that_cannot_be_measured_is_refused(command: str, options: list[str], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        CliRunner().invoke(make_app(), ["bench", command, *options], catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--prefix-tokens", "8"], "--prefix-tokens is 8, it must be at least 16"),
        (["--repeat", "2"], "--repeat is 2"),
        (["--out", "absent/result.json"], "--out"),
    ],
)
def test_a_prefix_run_that_cannot_be_measured_is_refused(options: list[str], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        CliRunner().invoke(make_app(), ["bench", "prefix", *options], catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--batch", "1,x"], "--batch"),
        (["--repeat", "3"], "--repeat"),
        (["--out", "absent/result.json"], "--out"),
        (["--model", "absent/really/not"], "neither a folder here nor a hub id"),
    ],
)
def test_wrong_input_is_refused_in_one_line(options: list[str], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refused:
        CliRunner().invoke(make_app(), ["bench", "latency", *options], catch_exceptions=False)
    assert "\n" not in str(refused.value)


def test_the_command_line_is_built_without_torch() -> None:
    code = "import lorikeet_bench.cli, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_asking_a_server_without_httpx_is_refused_and_nothing_else_needs_it() -> None:
    """As where `lorikeet` is installed without the extra `bench`."""
    code = """
import sys
sys.modules["httpx"] = None
import lorikeet_bench.fidelity, lorikeet_bench.scale, lorikeet_bench.swap, lorikeet_bench.latency
from typer.testing import CliRunner
from tests.benchmarks.test_cli import make_app
print(CliRunner().invoke(make_app(), ["bench", "serving"]).exception)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "asking a server needs httpx: pip install 'lorikeet[bench]'\n"
