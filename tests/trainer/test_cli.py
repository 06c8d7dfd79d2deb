"""What the command line says, and where: results on standard output, reasons on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from lorikeet_trainer.cli import register
from lorikeet_trainer.train import TrainedAdapter
from tests.trainer.conftest import ROWS


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_eval_shows_base_and_adapter_side_by_side(
    trained: TrainedAdapter, base_folder: Path, data: Path
) -> None:
    options = ("--model", base_folder, "--adapter", f"mood={trained.folder}")
    result = run("eval", data, *options)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    (base,) = [line for line in lines if "base" in line]
    (mood,) = [line for line in lines if "mood" in line]
    assert "0.0%" in base
    assert "100.0%" in mood

    document = json.loads(run("eval", data, *options, "--json").stdout)
    assert [each["name"] for each in document["scores"]] == ["base", "mood"]
    assert document["scores"][1]["exact_match"] == 1.0
    assert (document["data"], document["rows"]) == ("rows.jsonl", len(ROWS))


def test_eval_is_told_what_to_judge_in_one_way(data: Path, trained: TrainedAdapter) -> None:
    wrong: list[tuple[str | Path, ...]] = [
        (),
        (data, "--demo"),
        ("--demo", "--adapter", f"mood={trained.folder}"),
        ("--demo", "--model", "elsewhere"),
        ("--demo", "--max-tokens", "9"),
        (data, "--adapter", "mood"),
        (data, "--adapter", "mood="),
        (data, "--adapter", f"mood={trained.folder}", "--adapter", f"mood={trained.folder}"),
        (data, "--max-tokens", "0"),
    ]
    for options in wrong:
        assert run("eval", *options).exit_code == 2, options


def test_help_needs_no_torch() -> None:
    code = "import sys, lorikeet_trainer.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
