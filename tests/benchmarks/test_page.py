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
from lorikeet_bench.machine import describe_machine
from lorikeet_bench.markdown import render
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.plots import DPI, SIZE, pictures, time_per_token
from lorikeet_bench.report import make_document, summarise
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


def test_every_kind_that_is_measured_has_a_table() -> None:
    with pytest.raises(KeyError):
        render({"x": {"benchmark": "unheard-of"}}, {})
    assert not list(pictures({"benchmark": "prefix"}))


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
