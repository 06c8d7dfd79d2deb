"""`lorikeet train` as a user runs it: findings, refusals, a Ctrl-C, and a name at the end."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from lorikeet_adapters.errors import NameRefused, RefusedError
from lorikeet_adapters.store import open_store
from lorikeet_trainer.errors import OutputRefused, RecipeRefused, RequestRefused
from lorikeet_trainer.messages import EXIT_STOPPED
from lorikeet_trainer.room import make_room
from lorikeet_trainer.training import Asked
from lorikeet_trainer.worker import held
from tests.trainer.conftest import ROWS, Write, chat
from tests.trainer.jobs import environment
from tests.trainer.test_cli import run

ENTRY = (sys.executable, "-c", "from lorikeet_server.cli import main; main()")


def train(*words: str | Path) -> Result:
    return run("train", *words)


@pytest.mark.timeout(400)  # three processes that import torch
def test_ctrl_c_keeps_the_work_and_the_command_it_shows_goes_on(
    base_folder: Path, write: Write, tmp_path: Path
) -> None:
    data = write("rows.jsonl", [*ROWS, ROWS[0]])
    shelf = ["--data-dir", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    words = ["--rank", "4", "--max-steps", "2000", "--checkpoint-steps", "1000", "--learning-rate", "1e-3"]
    command = [*ENTRY, "train", str(data), "--name", "mood", "--model", str(base_folder), *words, *shelf]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]  # all of one kind
        heard = []
        for line in process.stderr:
            heard.append(line)
            if line.startswith("step "):
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert process.returncode == EXIT_STOPPED, errors
    assert "stopping after this step" in errors
    assert "".join(heard).startswith("reading the rows\n")
    assert "warning [duplicate] line 11: the same as line 1" in errors
    again = output.rpartition("go on with: ")[2].strip()
    assert shlex.split(again)[:5] == ["lorikeet", "train", "--resume", "--name", "mood"]

    # The rest of two thousand steps would take long: the request is the run's own, so it is refused.
    request = json.loads((tmp_path / "work" / "request.json").read_text())
    assert request["recipe"]["max_steps"] == 2000
    request["recipe"]["max_steps"] = 3
    (tmp_path / "work" / "request.json").write_text(json.dumps(request))
    refused = train(*shlex.split(again)[2:])
    assert isinstance(refused.exception, RefusedError)
    said = str(refused.exception)
    assert "its recipe.checkpoint_steps was" in said or "its recipe.epochs was" in said


def test_a_finished_run_is_registered_in_the_data_folder(
    base_folder: Path, write: Write, tmp_path: Path
) -> None:
    data_dir, work = tmp_path / "data", tmp_path / "work"
    where = ("--name", "mood", "--data-dir", data_dir, "--work", work, "--model", base_folder)
    words = ("--quantization", "fp32", "--rank", "4", "--max-steps", "3", "--learning-rate", "1e-3")
    result = train(write("rows.jsonl", ROWS), *where, *words, "--threads", "1")
    # The data folder was never served, so what it would check against is the demo's shapes.
    assert "3 steps, loss " in result.stdout
    assert "step 3/3  loss " in result.stderr
    assert "valid " in result.stderr
    assert isinstance(result.exception, RefusedError)
    assert "mood" not in registered(data_dir)


def registered(data_dir: Path) -> list[str]:
    with open_store(data_dir) as store:
        return [each.name for each in store.catalogue.names()]


def test_a_folder_alone(base_folder: Path, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "my adapter"
    words = ("--quantization", "fp32", "--rank", "4", "--max-steps", "3", "--learning-rate", "1e-3")
    where = ("--name", "mood", "--model", base_folder, "--out", out, "--work", tmp_path / "work")
    result = train(write("rows.jsonl", ROWS), *where, *words, "--threads", "1")
    assert result.exit_code == 0, (result.output, result.exception)
    assert (out / "adapter_model.safetensors").is_file()
    assert f"lorikeet adapters add '{out}' --name mood" in result.stdout


def test_every_finding_is_shown_but_each_kind_only_twenty_times(
    base_folder: Path, write: Write, tmp_path: Path
) -> None:
    data = write("rows.jsonl", [chat("hello", "")] * 25 + [[1]])
    where = ("--name", "mood", "--model", base_folder, "--out", tmp_path / "out", "--work", tmp_path / "work")
    result = train(data, *where)
    assert isinstance(result.exception, RefusedError)
    assert result.stderr.count("error [empty_assistant]") == 20
    assert "and 5 more of [empty_assistant]" in result.stderr
    assert "error [not_an_object] line 26" in result.stderr
    assert str(result.exception) == "rows.jsonl cannot be used: 26 errors, shown above"


def test_a_refusal_is_one_line_and_no_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write("rows.jsonl", ROWS)
    refusals: list[tuple[tuple[str | Path, ...], type[Exception]]] = [
        (("--name", "../up"), NameRefused),
        (("--name", "a", "--rank", "0"), RecipeRefused),
        (("--name", "a", "--initialisation", "pissa"), RecipeRefused),
        (("--name", "a", "--out", tmp_path), OutputRefused),
        (("--name", "a", "--validation", "none.jsonl"), RefusedError),
        (("--name", "a", "--recipe", "none.toml"), RecipeRefused),
    ]
    for options, error in refusals:
        result = train(data, *options)
        assert isinstance(result.exception, error), (options, result.exception)
        assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == [data]


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that was stopped. Its request cannot be read, so a worker that goes on with it ends at once."""
    work = tmp_path / "work"
    (work / "checkpoints" / "step-5").mkdir(parents=True)
    (work / "request.json").write_text("{}")
    return work


def record(work: Path, **content: object) -> None:
    (work / "adapter").mkdir(exist_ok=True)
    (work / "adapter" / "training_provenance.json").write_text(json.dumps(content))


def test_an_unfinished_run_is_not_lost_by_mistake(write: Write, stopped: Path, tmp_path: Path) -> None:
    new = (write("rows.jsonl", ROWS), "--name", "a", "--work", stopped, "--out", tmp_path / "out")
    for judged in (None, {}, {"gate": None}):
        if judged is not None:
            record(stopped, **judged)  # killed between the export and the verdict
        result = train(*new)
        assert isinstance(result.exception, OutputRefused)
        assert "lorikeet train --resume --name a --work" in str(result.exception)
    record(stopped, gate={"passed": False})
    make_room(stopped, "", force=False)
    assert not list(stopped.iterdir()), "what was judged gives way"


def test_a_run_that_is_at_work_is_never_removed(write: Write, stopped: Path, tmp_path: Path) -> None:
    record(stopped, gate={"passed": True})
    words = ("--name", "a", "--work", stopped, "--out", tmp_path / "out")
    with held(stopped):
        for more in ((), ("--force",)):
            result = train(write("rows.jsonl", ROWS), *words, *more)
            assert isinstance(result.exception, RequestRefused)
            assert "another worker is at work" in str(result.exception)
    assert (stopped / "checkpoints" / "step-5").is_dir()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("no run's")
    result = train(write("rows.jsonl", ROWS), "--name", "a", "--work", foreign, "--force")
    assert "is no run's folder" in str(result.exception)
    assert [each.name for each in foreign.iterdir()] == ["thesis.txt"]


def test_the_command_that_goes_on_may_replace_what_the_first_one_might(stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    asked = Asked(name="a", work=stopped, out=out, data_dir=tmp_path / "data")
    for force, said in ((False, "exists; choose another one"), (True, "field required")):
        again = shlex.split(replace(asked, force=force).again)
        result = train(*again[2:])
        assert isinstance(result.exception, RefusedError)
        assert said in str(result.exception)


def test_wrong_usage_is_exit_code_two(write: Write) -> None:
    rows = write("rows.jsonl", ROWS)
    wrong: list[tuple[str | Path, ...]] = [
        (),
        (rows,),
        ("--name", "a"),
        (rows, "--name", "a", "--rank", "many"),
        (rows, "--name", "a", "--quantization", "int2"),
        (rows, "--name", "a", "--resume"),
        ("--name", "a", "--resume", "--rank", "4"),
        ("--name", "a", "--resume", "--no-quality-gate"),
    ]
    for words in wrong:
        assert train(*words).exit_code == 2, words


def test_the_recipe_can_be_looked_at_without_a_run(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("rank = 8\nlearning_rate = 1e-3\n")
    shown = json.loads(train("--print-resolved", "--recipe", file, "--rank", "4").stdout)
    assert (shown["rank"], shown["learning_rate"], shown["quantization"]) == (4, 1e-3, "nf4")
    assert json.loads(train("--schema").stdout)["properties"]["rank"]["type"] == "integer"


def test_usage_is_refused_without_torch() -> None:
    code = (
        "import sys, typer; from typer.testing import CliRunner; from lorikeet_trainer.cli import register\n"
        "app = typer.Typer(); app.callback()(lambda: None); register(app)\n"
        "codes = [CliRunner().invoke(app, ['train', *words]).exit_code for words in"
        " ([], ['--name', 'a'], ['none.jsonl', '--name', 'a'], ['--schema'])]\n"
        "sys.exit('torch' in sys.modules or codes != [2, 2, 1, 0])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
