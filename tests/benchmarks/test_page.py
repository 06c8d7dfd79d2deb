"""Result files become a page: every figure of theirs, and pictures that hold what they say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from lorikeet_bench.cli import register
from lorikeet_bench.compare import KINDS
from lorikeet_bench.machine import describe_machine
from lorikeet_bench.markdown import render
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.plots import DPI, SIZE, draw, footer, pictures, time_per_token
from lorikeet_bench.report import make_document, summarise
from lorikeet_bench.serving_report import FIGURES
from lorikeet_bench.swap import NAMES
from lorikeet_bench.target import Standing
from tests.benchmarks.conftest import Measured


@pytest.fixture(scope="module")
def latency(measured: Measured) -> dict[str, Any]:
    results = summarise(measured.runs)
    document = make_document(measured.bench, measured.plan, describe_machine(), results, datetime.now(UTC))
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]


def run(*words: str) -> str:
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    return CliRunner().invoke(app, ["bench", "report", *words], catch_exceptions=False).stdout


def test_the_page_shows_every_row_and_its_pictures(latency: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(latency))
    out = tmp_path / "page"
    assert "1 results, 3 pictures" in run(str(tmp_path / "mine.json"), "--out", str(out))
    page = (out / "README.md").read_text()
    for row in latency["results"]:
        assert f"{row['median_tpot_ms']:.2f}" in page
    for target in latency["targets"]:
        assert target["name"] in page
    assert latency["cpu_model"] in page
    named = [path.name for path in out.glob("*.png")]
    assert sorted(named) == ["mine-batch-1.png", "mine-batch-4.png", "mine-throughput-by-adapters.png"]
    for name in named:
        assert f"]({name})" in page
        picture = Image.open(out / name)
        assert picture.size == (round(SIZE[0] * DPI), round(SIZE[1] * DPI))
        assert len(set(picture.convert("RGB").resize((64, 38)).get_flattened_data())) > 10, "not blank"


def test_bars_are_as_long_as_the_medians(latency: dict[str, Any]) -> None:
    axes = Figure().add_subplot()
    assert time_per_token(axes, latency, batch=4)
    rows = [row for row in latency["results"] if row["batch"] == 4]
    assert [bar.get_width() for bar in axes.patches] == [row["median_tpot_ms"] for row in rows]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["base", "merged"]


MACHINE = {
    "cpu_model": "a processor", "cpu_count": 2, "threads": 1, "load_average": 0.5, "torch_version": "2",
    "transformers_version": "5", "commit": None, "date": "2026-01-02T00:00:00+00:00",
}  # fmt: skip
TARGET = {
    "name": "speed", "value": 1.5, "low": 1.25, "high": 1.75, "wanted": ">= 2", "standing": Standing.MISSED,
}  # fmt: skip


def documents() -> dict[str, dict[str, Any]]:
    """One of each kind but latency, with a figure that is found nowhere else in it."""
    mine = {"model_id": "m", "quantization": "nf4", **MACHINE}
    spread = {f"{kind}_{name}_ms": 31.5 for kind in ("mean", "p50", "p90", "p95", "p99") for name in FIGURES}
    samples = {f"samples_{name}_ms": [30.0, 33.0] for name in ("ttft", "tpot", "e2el")}
    scale = {"arm": "all", "output_throughput": 77.5, "p50_ttft_ms": 1.0, "p99_ttft_ms": 2.0,
             "loads_a_pass": 3, "returns_a_pass": 2, "touched_a_pass": 4, "resident_after": 4,
             **{f"throughput_ratio{end}": 0.875 for end in ("", "_low", "_high")}}  # fmt: skip
    swap = {"median_ms": 44.5, "max_ms": 55.5, "samples_ms": [44.5]}
    prefix = {"mix": "base", "median_fresh_ttft_ms": 66.25, "median_kept_ttft_ms": 2.0,
              **{f"ttft_ratio_fresh_to_kept{end}": 33.125 for end in ("", "_low", "_high")}}  # fmt: skip
    fidelity = {
        "arm": "adapter",
        "quantization": "nf4",
        "mean_kl": 1.5e-3,
        "p99_kl": 2.5e-2,
        "top1_agreement": 0.995,
    }
    versus = {"url": "http://y", "model_id": None, "models": ["a", "b"], "output_throughput": 88.5,
              "median_tpot_ms": 1.5, "median_ttft_ms": 2.5, "failed": 0}  # fmt: skip
    return {
        "versus": {"benchmark": "versus", **mine, "targets": [TARGET], "results": [versus]},
        "prefix": {"benchmark": "prefix", **mine, "results": [prefix]},
        "scale": {"benchmark": "scale", **mine, "targets": [TARGET], "results": [{"names": n, **scale} for n in (8, 64)]},
        "swap": {"benchmark": "swap", **mine, "targets": [TARGET],
                 "results": [{"figure": name, **swap} for name in NAMES]},
        "fidelity": {"benchmark": "fidelity", **mine, "results": [fidelity]},
        "serving": {"benchmark": "serving", "url": "http://x", "request_rate": "inf", "max_concurrency": 8,
                    "completed": 2, "failed": 0, "request_throughput": 1.0, "output_throughput": 2.0,
                    "server": {"model_id": "theirs", "quantization": "nf4"}, "date": MACHINE["date"],
                    **spread, **samples, **{f"client_{key}": value for key, value in MACHINE.items()}},
    }  # fmt: skip


SHOWN = {
    "prefix": "33.12 [33.12, 33.12]",
    "scale": "| 8 | all | 77.5 |",
    "swap": "| stall | 44.5 | 55.5 |",
    "fidelity": "1.5e-03",
    "serving": "| TPOT ms | 31.5 |",
    "versus": "| http://y |  | a+b | 88.5 | 1.5 |",
}


@pytest.mark.parametrize("kind", sorted(KINDS - {"latency"}))
def test_every_kind_that_is_measured_has_a_table_and_its_pictures(kind: str, tmp_path: Path) -> None:
    document = documents()[kind]
    drawn = draw(kind, document, tmp_path)
    assert [path.name for path in drawn] == [f"{kind}-{what}.png" for what, _ in pictures(document)]
    assert (kind in {"prefix", "versus"}) is (drawn == ())
    page = render({"mine": document}, {"mine": drawn})
    assert SHOWN[kind] in page
    assert all(f"]({path.name})" in page for path in drawn)
    if "targets" in document:
        assert "| speed | >= 2 | 1.500 [1.250, 1.750] | **MISSED** |" in page


def test_a_clients_machine_is_not_called_the_servers() -> None:
    mine, theirs = documents()["swap"], documents()["serving"]
    for text in (render({"x": theirs}, {}), footer(theirs)):
        assert "client: a processor, 2 cores, 1 threads" in text
        assert "server: model_id theirs, quantization nf4" in text
    assert "says nothing of itself" in footer({**theirs, "server": {}})
    for text in (render({"x": mine}, {}), footer(mine)):
        assert "client" not in text
        assert "a processor, 2 cores" in text


def test_what_is_no_result_or_of_another_version_is_refused(latency: dict[str, Any], tmp_path: Path) -> None:
    for name in ("old", "sub/old"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows = [
            {key: value for key, value in row.items() if key[:7] != "samples"} for row in latency["results"]
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({**latency, "results": rows}))
    with pytest.raises(PlanRefused, match="measure again"):
        run(str(tmp_path / "old.json"), "--out", str(tmp_path / "page"))
    with pytest.raises(PlanRefused, match="same name"):
        run(str(tmp_path / "old.json"), str(tmp_path / "sub/old.json"), "--out", str(tmp_path / "page"))
