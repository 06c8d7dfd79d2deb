"""A slowdown is seen and a rerun is not taken for one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lorikeet_bench.cli import register
from lorikeet_bench.compare import Verdict, compare, read_result
from lorikeet_bench.plan import PlanRefused

SETTINGS = {"model_id": "m", "quantization": "nf4", "input_len": 32, "output_len": 64, "threads": 2}


def result(seed: int, slowed: float = 1.0, **more: object) -> dict[str, Any]:
    """Nine rounds of two arms, each within 6 % of its middle; the second is slowed."""
    draw = random.Random(seed)
    rows = [
        {
            "arm": arm,
            "rank": 0,
            "batch": 1,
            "samples_tpot_ms": [middle * draw.uniform(0.94, 1.06) for _ in range(9)],
        }
        for arm, middle in (("base", 10.0), ("adapter", 12.0 * slowed))
    ]
    return {"benchmark": "latency", **SETTINGS, "results": rows, **more}


def verdicts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Verdict]:
    return {line.name: line.verdict for line in compare(old, new, 0.1).lines}


@pytest.mark.parametrize("seed", range(6))
def test_a_fifth_slower_is_seen_and_a_rerun_is_quiet(seed: int) -> None:
    old, base, adapter = result(seed), "arm base batch 1 tpot_ms", "arm adapter batch 1 tpot_ms"
    assert verdicts(old, result(seed + 100)) == {base: Verdict.SAME, adapter: Verdict.SAME}
    assert verdicts(old, result(seed + 100, 1.25)) == {base: Verdict.SAME, adapter: Verdict.SLOWER}
    assert verdicts(result(seed + 100, 1.25), old) == {base: Verdict.SAME, adapter: Verdict.FASTER}


def test_what_else_differs_is_said_and_other_settings_are_refused() -> None:
    other = result(2, threads=8)
    other["results"] = other["results"][:1]
    found = compare(result(1), other, 0.1)
    assert found.differing == ("threads, 2 and 8",)
    assert (found.lost, found.added) == (("arm adapter batch 1 tpot_ms",), ())
    assert found.regressed, "an arm that is not measured any more is no good news"
    back = compare(other, result(1), 0.1)
    assert (back.lost, back.added) == ((), ("arm adapter batch 1 tpot_ms",))
    assert not back.regressed
    with pytest.raises(PlanRefused, match="input_len"):
        compare(result(1), result(1, input_len=64), 0.1)
    with pytest.raises(PlanRefused, match="prefix"):
        compare(result(1), result(1, benchmark="prefix"), 0.1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("device", "cuda:0"), ("adapters", "demo"), ("resident_adapters", 64), ("dtype", "float32")],
)
def test_a_result_of_another_device_or_other_adapters_is_another_result(setting: str, value: object) -> None:
    with pytest.raises(PlanRefused, match=setting):
        compare(result(1), result(1, **{setting: value}), 0.1)


def test_nothing_in_common_is_no_pass() -> None:
    other = result(1)
    other["results"] = [{**row, "arm": f"other-{row['arm']}"} for row in other["results"]]
    found = compare(result(1), other, 0.1)
    assert (found.lines, found.regressed) == ((), True)


def serving(seed: int = 0, **more: object) -> dict[str, Any]:
    draw = random.Random(seed)
    samples = {f"samples_{name}_ms": [draw.uniform(90, 110) for _ in range(100)] for name in ("ttft",)}
    rates = {"request_throughput": 8.0, "output_throughput": 500.0, "request_goodput": 7.5}
    return {
        "benchmark": "serving",
        "prompt_words": 32,
        "completed": 200,
        "failed": 0,
        **samples,
        **rates,
        **more,
    }


@pytest.mark.parametrize(
    ("worse", "line"),
    [
        ({"output_throughput": 12.0}, "output_throughput"),
        ({"request_goodput": 0.1}, "request_goodput"),
        ({"request_goodput": 0.0}, "request_goodput"),
        ({"samples_ttft_ms": [100.0] * 90 + [900.0] * 10}, "ttft_ms p99"),
    ],
)
def test_a_collapse_that_the_medians_do_not_show_is_seen(worse: dict[str, Any], line: str) -> None:
    assert not compare(serving(), serving(1), 0.1).regressed
    found = compare(serving(), serving(1, **worse), 0.1)
    assert [each.name for each in found.lines if each.verdict is Verdict.SLOWER] == [line]
    assert found.regressed


def test_answers_that_failed_are_no_speed() -> None:
    """Five of two hundred came, as quick as ever."""
    found = compare(serving(), serving(failed=195, completed=5), 0.1)
    assert found.regressed
    assert found.failures == "195 requests failed, 0 before"
    assert not compare(serving(failed=195), serving(), 0.1).regressed
    for setting in ("prompt_words", "skew", "reuse_prompts"):
        with pytest.raises(PlanRefused, match=setting):
            compare(serving(), serving(**{setting: 4096}), 0.1)


def test_a_rate_that_is_not_told_any_more_is_lost() -> None:
    new = serving()
    del new["request_goodput"]
    assert compare(serving(), new, 0.1).lost == ("request_goodput",)


def test_the_exit_code_is_for_scripts(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("old", "again", "slow", "broken", "other")}
    for name, document in (("old", result(1)), ("again", result(2)), ("slow", result(3, 1.25))):
        files[name].write_text(json.dumps(document))
    files["broken"].write_text("{")
    files["other"].write_text('{"benchmark": "mine"}')
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)

    def run(new: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["bench", "compare", str(files["old"]), str(files[new])])
        return done.exit_code, done.stdout

    assert run("again")[0] == 0
    code, shown = run("slow")
    assert code == 1
    assert "slower" in shown
    for name in ("broken", "other"):
        with pytest.raises(PlanRefused, match=name):
            read_result(files[name])
    with pytest.raises(PlanRefused, match="cannot be read"):
        read_result(tmp_path / "absent.json")
