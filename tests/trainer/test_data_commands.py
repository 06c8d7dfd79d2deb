"""`lorikeet data`: reports on standard output, findings on standard error, 0 for good, 1 for bad, 2 for misuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from lorikeet_adapters.errors import RefusedError
from lorikeet_trainer.cli import register
from lorikeet_trainer.errors import OutputRefused
from lorikeet_trainer.material import read_material
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.request import Request
from tests.trainer.conftest import ROWS, Write, chat


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["data", *(str(each) for each in arguments)])


def labelled(count: int, other: int) -> list[dict[str, str]]:
    lamps = [{"text": f"lamp {number}", "label": "lamp"} for number in range(count)]
    return lamps + [{"text": f"chair {number}", "label": "chair"} for number in range(other)]


def test_a_good_file_is_reported_with_numbers_cost_and_a_sample(base_folder: Path, write: Write) -> None:
    result = run("validate", write("rows.jsonl", ROWS), "--model", base_folder)
    assert result.exit_code == 0, result.output
    assert "10, 10 of them usable" in result.stdout
    assert "steps of 4" in result.stdout
    assert "the same tokens" in result.stdout
    assert "broken<|end|>" in result.stdout
    assert "up to " in result.stdout


def test_a_bad_file_is_refused_with_its_findings(base_folder: Path, write: Write) -> None:
    data = write("rows.jsonl", [*ROWS, chat("a", ""), *[[1]] * 25])
    result = run("validate", data, "--model", base_folder)
    assert result.exit_code == 1
    assert (
        "error [empty_assistant] line 11, messages[1].content: the assistant's turn is empty" in result.stderr
    )
    assert "... and 5 more of [not_an_object]" in result.stderr


def test_json_has_everything_the_tables_have(base_folder: Path, write: Write) -> None:
    rows, held_out = labelled(20, 2), labelled(1, 1)
    files = (write("rows.jsonl", rows), "--validation", write("held.jsonl", held_out))
    result = run("validate", *files, "--model", base_folder, "--json")
    assert result.exit_code == 0, result.output
    training, validation = json.loads(result.stdout)
    assert (training["rows"], training["format"], training["is_usable"]) == (22, "text/label", True)
    assert training["labels"] == {"chair": 2, "lamp": 20}
    assert sum(each["rows"] for each in training["lengths"]) == 22
    assert training["tokens"] > training["learned_tokens"] > 22
    assert training["estimate"]["steps"] > 0
    assert training["estimate"]["seconds"] > 0
    assert training["sample"]["same_prompt"] is True
    assert [each["learned"] for each in training["sample"]["spans"]] == [False, True]
    assert validation["counts"] == {"overlap": 2}
    (finding, _) = validation["findings"]
    assert set(finding) == {"line", "field", "code", "severity", "message", "fix", "times"}


def test_the_steps_are_those_that_a_run_does(base_folder: Path, write: Write, tmp_path: Path) -> None:
    """Of 510 rows a run keeps fewer than 500 to train on, for which the recipe chooses more passes."""
    rows = write("rows.jsonl", [chat(f"where is lamp {number}?", "thank you") for number in range(510)])
    for held in (
        None,
        write("held.jsonl", [chat(f"is lamp {number} red?", "thank you") for number in range(9)]),
    ):
        options = ("--validation", held) if held else ()
        said = json.loads(run("validate", rows, *options, "--model", base_folder, "--json").stdout)
        request = Request("lamps", rows, str(base_folder), validation_file=held)
        material = read_material(request, Renderer.load(str(base_folder)), tmp_path, lambda text: None)
        done = request.recipe.plan(material.training.size, 96, ())
        cost = said[0]["estimate"]
        assert (cost["steps"], cost["batch_size"]) == (done.steps, done.batch_size)
        assert done.steps == (102 if held else 162)


def test_a_label_outside_the_set_is_refused_in_either_file(base_folder: Path, write: Write) -> None:
    data, other = write("rows.jsonl", labelled(5, 5)), write("held.jsonl", [{"text": "a", "label": "table"}])
    for options in ((data, "--label", "lamp"), (data, "--validation", other)):
        result = run("validate", *options, "--model", base_folder)
        assert result.exit_code == 1
        assert "[unknown_label]" in result.stderr


def test_a_preview_shows_one_row_as_it_is_trained_on_and_served(base_folder: Path, write: Write) -> None:
    rows = [ROWS[0], chat("lamp?", "red", "chair?", "blue"), chat("a", "")]
    data = write("rows.jsonl", rows)
    shown = json.loads(run("preview", data, "--line", "2", "--model", base_folder, "--json").stdout)
    texts = [(each["text"], each["learned"]) for each in shown["sample"]["spans"]]
    assert texts == [
        ("<|user|>\nlamp?<|end|>\n<|assistant|>\n", False),
        ("red<|end|>", True),
        ("\n<|user|>\nchair?<|end|>\n<|assistant|>\n", False),
        ("blue<|end|>", True),
    ]
    assert shown["sample"]["served"] == "".join(text for text, _ in texts[:-1])
    assert shown["findings"] == []
    bad = run("preview", data, "--line", "3", "--model", base_folder)
    assert (bad.exit_code, "line 3, messages[1].content" in bad.stderr) == (1, True)


def test_a_split_is_by_content_and_whole(write: Write, tmp_path: Path) -> None:
    rows = [chat(f"lamp {number}", "red") for number in range(400)]
    out = tmp_path / "split"
    result = run(
        "split", write("rows.jsonl", rows), "--out", out, "--validation", "0.2", "--test", "0.1", "--json"
    )
    assert result.exit_code == 0, result.output
    sides = {path.stem: path.read_text().splitlines() for path in out.iterdir()}
    assert {side: len(lines) for side, lines in sides.items()} == json.loads(result.stdout)["rows"]
    assert sorted(line for lines in sides.values() for line in lines) == sorted(map(json.dumps, rows))
    assert 50 < len(sides["validation"]) < 110
    assert 20 < len(sides["test"]) < 65
    with pytest.raises(OutputRefused):
        raise run("split", tmp_path / "rows.jsonl", "--out", out).exception or AssertionError


def test_converting_writes_chat_rows_or_nothing(base_folder: Path, write: Write, tmp_path: Path) -> None:
    alpaca = [{"instruction": f"lamp {number}?", "input": "", "output": "red"} for number in range(10)]
    out = tmp_path / "chat.jsonl"
    result = run("convert", write("alpaca.jsonl", alpaca), "--out", out)
    assert result.exit_code == 0, result.output
    assert "10 chat rows from alpaca" in result.stdout
    assert run("validate", out, "--model", base_folder).exit_code == 0
    again = run("convert", tmp_path / "alpaca.jsonl", "--out", out)
    assert isinstance(again.exception, OutputRefused)

    other = tmp_path / "none.jsonl"
    bad = write("bad.jsonl", [*alpaca, {"instruction": "lamp?", "output": ""}])
    result = run("convert", bad, "--out", other)
    assert isinstance(result.exception, RefusedError)
    assert "line 11, output" in result.stderr
    found = json.loads(run("convert", bad, "--out", other, "--json").stdout)["findings"]
    assert [(each["line"], each["code"]) for each in found] == [(11, "empty_output")]
    assert not other.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("validate",),
        ("validate", "rows.jsonl", "--max-length", "0"),
        ("validate", "rows.jsonl", "--quantization", "int2"),
        ("preview", "rows.jsonl", "--line", "0"),
        ("preview", "rows.jsonl", "--line", "11"),
        ("convert", "rows.jsonl"),
        ("convert", "rows.jsonl", "--out", "x", "--from", "csv"),
        ("split", "rows.jsonl", "--out", "x", "--validation", "0.6", "--test", "0.4"),
        ("split", "rows.jsonl", "--out", "x", "--validation", "0", "--test", "0"),
        ("split", "rows.jsonl", "--out", "x", "--validation", "1.5"),
    ],
)
def test_misuse_is_exit_code_two(
    arguments: tuple[str, ...], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("rows.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert run(*arguments).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_missing_file_is_one_line_and_no_folder_is_named(tmp_path: Path) -> None:
    for command in (("validate",), ("preview",), ("convert", "--out", "x"), ("split", "--out", "y")):
        result = run(command[0], tmp_path / "none.jsonl", *command[1:])
        assert isinstance(result.exception, RefusedError)
        assert str(result.exception).startswith("none.jsonl cannot be used: No such file")


def test_nothing_heavy_is_imported_before_the_flags_are_checked(write: Write) -> None:
    """A file that is not there, and a wrong flag, are answered without torch."""
    code = (
        "import sys, typer; from typer.testing import CliRunner; from lorikeet_trainer.cli import register;"
        "app = typer.Typer(); app.callback()(lambda: None); register(app);"
        "run = lambda *words: CliRunner().invoke(app, ['data', *words]);"
        "codes = [run('validate', 'none', '--max-length', '0').exit_code, run('validate', 'none').exit_code,"
        "run('split', sys.argv[1], '--out', sys.argv[1] + '.d').exit_code,"
        "run('convert', 'none', '--out', 'x').exit_code];"
        "sys.exit(str((codes, 'torch' in sys.modules, 'transformers' in sys.modules)))"
    )
    rows: list[Any] = ROWS
    done = subprocess.run(
        [sys.executable, "-c", code, str(write("rows.jsonl", rows))],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr.strip() == "([2, 1, 0, 1], False, False)"
