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
    assert found.missing == ("arm adapter batch 1 tpot_ms",)
    with pytest.raises(PlanRefused, match="input_len"):
        compare(result(1), result(1, input_len=64), 0.1)
    with pytest.raises(PlanRefused, match="prefix"):
        compare(result(1), result(1, benchmark="prefix"), 0.1)


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
