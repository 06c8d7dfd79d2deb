"""What the command line says, and where: results on standard output, reasons on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from lorikeet_adapters.errors import NameRefused, RefusedError
from lorikeet_trainer.cli import register
from lorikeet_trainer.errors import OutputRefused, RecipeRefused
from lorikeet_trainer.train import TrainedAdapter
from tests.trainer.conftest import ROWS, Write, chat


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_train_writes_the_folder_and_says_how_to_register_it(
    base_folder: Path, write: Write, tmp_path: Path
) -> None:
    out = tmp_path / "my adapter"
    options = ("--rank", "4", "--max-steps", "3", "--learning-rate", "1e-3", "--threads", "1")
    data = write("rows.jsonl", [*ROWS, ROWS[0]])
    result = run("train", data, "--name", "mood", "--out", out, "--model", base_folder, *options)
    assert result.exit_code == 0, result.output
    assert (out / "adapter_model.safetensors").is_file()
    assert f"lorikeet adapters add '{out}' --name mood" in result.stdout
    assert "11 rows, 3 steps, loss " in result.stdout
    assert "step 3/3  loss " in result.stderr
    assert "warning [duplicate] line 11: the same as line 1" in result.stderr


def test_every_finding_is_shown_but_each_kind_only_twenty_times(base_folder: Path, write: Write) -> None:
    data = write("rows.jsonl", [chat("hello", "")] * 25 + [[1]])
    result = run("train", data, "--name", "mood", "--model", base_folder)
    assert isinstance(result.exception, RefusedError)
    assert result.stderr.count("error [empty_assistant]") == 20
    assert "and 5 more of [empty_assistant]" in result.stderr
    assert "error [not_an_object] line 26" in result.stderr
    assert str(result.exception) == "rows.jsonl cannot be used: 26 errors, shown above"


def test_a_finding_is_shown_once(base_folder: Path, write: Write) -> None:
    result = run("train", write("rows.jsonl", [*ROWS, [1]]), "--name", "mood", "--model", base_folder)
    assert result.stderr.count("not_an_object") == 1
    assert result.stderr.count("line 11") == 1
    assert str(result.exception) == "rows.jsonl cannot be used: 1 error, shown above"


def test_a_refusal_is_one_line_and_no_folder(
    base_folder: Path, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write("rows.jsonl", ROWS)
    refusals: list[tuple[tuple[str | Path, ...], type[Exception]]] = [
        (("--name", "../up"), NameRefused),
        (("--name", "a", "--rank", "0"), RecipeRefused),
        (("--name", "a", "--out", tmp_path), OutputRefused),
    ]
    for options, error in refusals:
        result = run("train", data, "--model", base_folder, *options)
        assert isinstance(result.exception, error)
        assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == [data]


def test_wrong_usage_is_exit_code_two(write: Write) -> None:
    assert run("train").exit_code == 2
    assert run("train", write("rows.jsonl", ROWS)).exit_code == 2
    assert run("train", "rows.jsonl", "--name", "a", "--rank", "many").exit_code == 2
    assert run("train", "rows.jsonl", "--name", "a", "--quantization", "int2").exit_code == 2


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
