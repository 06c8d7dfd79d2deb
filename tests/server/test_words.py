"""What `lorikeet adapters` says when something is wrong: the name that may be meant, the command that helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.store import Store
from tests.server.process import ServerProcess
from tests.server.test_commands import Run, listed, run, said
from tests.server.world import BASE, World
from tests.tiny import save_adapter

__all__ = ["run"]  # a fixture


@pytest.fixture(params=["folder", "server"])
def where(
    request: pytest.FixtureRequest, run: Run, process: ServerProcess, world: World, tmp_path: Path
) -> tuple[object, ...]:
    """A data folder, or a running server, with `formal`, `friendly` and the alias `helper`."""
    with Store(tmp_path / "data") as store:
        store.notes.remember_base(ServedBase(str(world.base), BASE))
    found = ("--data-dir", tmp_path / "data") if request.param == "folder" else ("--url", process.url)
    for name in ("formal", "friendly"):
        assert run("add", world.adapters[name], "--name", name, "--replace", *found)[0] == 0
    assert run("alias", "helper", "--to", "formal", *found)[0] == 0
    return found


def test_a_slip_gets_the_name_that_may_be_meant_and_the_command_that_lists(
    run: Run, where: tuple[object, ...], world: World
) -> None:
    listing = "(`lorikeet adapters list` shows adapters and aliases)"
    for words, reason in {
        ("show", "fromal"): f"the model `fromal` does not exist; did you mean `formal`? {listing}",
        ("rm", "Friendly"): f"the model `Friendly` does not exist; did you mean `friendly`? {listing}",
        ("rm", "zebra"): f"the model `zebra` does not exist; the list of models says what does {listing}",
        ("rm", "helper"): f"`helper` is an alias, not an adapter {listing}",
        ("show", BASE): f"`{BASE}` is the base model, not an adapter {listing}",
        ("alias", "formal", "--remove"): f"`formal` is an adapter, not an alias {listing}",
        ("alias", "helpr", "--remove"): f"the model `helpr` does not exist; did you mean `helper`? {listing}",
        (
            "alias",
            "x",
            "--to",
            "formol@98",
        ): f"the model `formol` does not exist; did you mean `formal`? {listing}",
        ("compose", "both", "formal:x"): "the weight `x` in `formal:x` is not a plain decimal number",
    }.items():
        assert run(*words, *where) == (1, "", f"lorikeet: {reason}\n"), words
    code, _, err = run("add", world.adapters["friendly"], "--name", "formal", *where)
    assert (code, "with --replace" in err, "send" in err) == (1, True, False)
    code, _, err = run("alias", "x", "--to", "formal@zz", *where)
    assert (code, "`lorikeet adapters history` prints it" in err) == (1, True)


def test_no_refusal_of_the_command_line_names_a_route(run: Run, where: tuple[object, ...]) -> None:
    for words in (("show", "x"), ("rm", "x"), ("pin", "x"), ("history", "x"), ("rollback", "x", "ab")):
        _, _, err = run(*words, *where)
        assert err
        assert "/v1/" not in err, words


def test_the_list_shows_pins_and_aliases(run: Run, where: tuple[object, ...]) -> None:
    assert run("pin", "formal", *where)[0] == 0
    lines = run("list", *where)[1].splitlines()
    pinned = {line.split()[1]: "yes" in line for line in lines if "formal" in line or "friendly" in line}
    assert pinned == {"formal": True, "friendly": False, "helper": False}
    assert run("pin", "formal", "--off", *where)[0] == 0


def test_one_line_of_a_history_is_current(run: Run, where: tuple[object, ...], world: World) -> None:
    for name in ("formal", "friendly", "formal"):
        assert run("add", world.adapters[name], "--name", "turning", "--replace", *where)[0] == 0
    assert run("pin", "turning", *where)[0] == 0
    events = run("history", "turning", *where)[1].splitlines()[3:-1]
    pinned, newest, older, *_ = events
    assert "updated" in pinned
    assert "current" in newest
    assert "kept" in older
    assert run("rm", "turning", *where)[0] == 0
    assert [line for line in events if "current" in line] == [newest]


def test_folders_are_named_as_they_were_typed(
    run: Run, where: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    mend = "(name the folder that PEFT saved)"
    for words, reason in {
        ("add", "./nosuch/place"): f"'./nosuch/place' does not exist {mend}",
        ("add", "runs/../runs/one"): f"'runs/../runs/one' has no adapter_config.json {mend}",
    }.items():
        assert run(*words, "--name", "x", *where) == (1, "", f"lorikeet: {reason}\n")
    assert (
        run("convert", "runs/one")[2]
        == "lorikeet: runs/one has no adapter_model.bin; there is nothing to convert\n"
    )
    (tmp_path / "runs" / "one" / "adapter_model.bin").touch()
    assert "'runs/one' has no adapter_config.json" in run("convert", "runs/one")[2]


def test_what_is_wrong_alike_in_many_modules_is_one_line(
    run: Run, where: tuple[object, ...], world: World, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(world.adapters["formal"], tmp_path / "wrong"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 9, "mystery": 1, "riddle": 1}))
    code, out, _ = run("check", folder, "--json", *where)
    each_one = [each for each in json.loads(out)["findings"] if each["code"] == "shape_mismatch"]
    assert code == 1
    assert len(each_one) > 10
    out, err = run("check", folder, *where)[1:]
    assert out.count("shape_mismatch") == 1
    assert out.count("unknown_key") == 2
    assert f"would not load: {len(each_one) + 2} reasons" in err
    code, _, err = run("add", folder, "--name", "x", *where)
    assert (code, err.count("the base and rank 9 need")) == (1, 1)
    assert f"and {len(each_one) - 1} more like it" in err
    assert "mystery" in err
    assert "riddle" in err


def test_check_prints_the_warnings_that_add_prints(
    run: Run, where: tuple[object, ...], world: World, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(world.adapters["formal"], tmp_path / "elsewhere"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "other/base"})
    )
    checked = run("check", folder, *where)
    warnings = [line for line in checked[1].splitlines() if line.startswith("warning: ")]
    assert checked[0] == 0
    assert "'base'" in warnings[0]
    assert warnings == run("add", folder, "--name", "warned", *where)[1].splitlines()[1:]
    assert said(run, "check", folder, *where)["warnings"] == [
        each.removeprefix("warning: ") for each in warnings
    ]


def test_an_adapter_of_the_demo_base_is_not_warned_about(run: Run, tmp_path: Path) -> None:
    """PEFT writes the folder it loaded the base from, and inside the package that one is called `base`."""
    from lorikeet_adapters.base_source import demo_base

    folder = save_adapter(demo_base(), tmp_path / "own", rank=2, seed=5)
    assert "base" in json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert run("check", folder, "--model", "demo") == (0, f"{folder} would load\n", "")


def test_adding_where_no_server_is_says_where_it_went(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = save_adapter_of_demo(tmp_path)
    code, _, err = run("add", own, "--name", "mine")
    assert code == 0
    assert err.startswith(f"made the data folder {tmp_path / 'lorikeet-data'}, which no server holds; ")
    assert "--url" in err
    assert run("add", own, "--name", "again")[2] == ""
    assert set(listed(run)) == {"mine", "again"}


def save_adapter_of_demo(folder: Path) -> Path:
    from lorikeet_adapters.base_source import demo_base

    return save_adapter(demo_base(), folder / "own", rank=2, seed=5)
