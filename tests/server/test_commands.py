"""`lorikeet adapters`: through a running server, with its refusals as one line, or on the data folder."""

from __future__ import annotations

import http.server
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorikeet_adapters.notes import ServedBase
from lorikeet_adapters.store import Store
from lorikeet_server.cli import main
from tests.server.process import ServerProcess, lorikeet
from tests.server.world import BASE, World
from tests.tiny import save_adapter

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`lorikeet adapters WORDS` in this process: exit code, output, error output."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LORIKEET_URL", raising=False)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lorikeet", "adapters", *map(str, words)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
        assert isinstance(code, int)
        read = capsys.readouterr()
        return code, read.out, read.err

    return call


def listed(run: Run, *where: object) -> dict[str, str]:
    code, out, err = run("list", "--json", *where)
    assert (code, err) == (0, "")
    return {each["id"]: each["generation"] for each in json.loads(out)}


def test_add_list_and_remove_through_the_server_that_holds_the_folder(
    run: Run, process: ServerProcess, world: World
) -> None:
    assert process.url
    where = ("--data-dir", process.data)
    code, out, err = run("add", world.adapters["formal"], "--name", "team/new", *where)
    assert (code, err) == (0, "")
    generation = listed(run, *where)["team/new"]
    assert out == f"team/new  rank 4  generation {generation[:12]}\n"
    code, out, _ = run("list", *where)
    assert code == 0
    assert "team/new" in out
    assert generation[:12] in out
    code, out, err = run("rm", "team/new", *where)
    assert (code, err) == (0, "")
    assert out.startswith("team/new removed")
    assert "team/new" not in listed(run, "--url", process.url)


def test_a_folder_anywhere_is_uploaded(
    run: Run, process: ServerProcess, world: World, tmp_path: Path
) -> None:
    """The server may be another machine, so its adapters root says nothing about the caller's folders."""
    folder = Path(shutil.copytree(world.adapters["triage"], tmp_path / "elsewhere"))
    where = ("--url", process.url)
    assert run("add", folder, "--name", "sent", *where)[0] == 0
    assert run("add", world.adapters["triage"], "--name", "same", *where)[0] == 0
    generations = listed(run, *where)
    assert generations["sent"] == generations["same"]
    for name in ("sent", "same"):
        assert run("rm", name, *where)[0] == 0


@pytest.mark.parametrize("offline", [False, True])
def test_check_says_every_reason_and_changes_nothing(
    run: Run, process: ServerProcess, world: World, tmp_path: Path, offline: bool
) -> None:
    if offline:
        with Store(tmp_path / "data") as store:
            store.notes.remember_base(ServedBase(str(world.base), "tiny"))
    where = ("--data-dir", tmp_path / "data") if offline else ("--url", process.url)
    before = listed(run, *where)
    folder = Path(shutil.copytree(world.adapters["triage"], tmp_path / "folder"))
    assert run("check", folder, *where) == (0, f"{folder} would load\n", "")
    code, out, _ = run("check", folder, "--json", *where)
    assert (code, json.loads(out)) == (0, {"loadable": True, "findings": [], "warnings": []})
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "layer_replication": [[0, 1]], "r\x1b[31m": 1})
    )
    code, out, err = run("check", folder, *where)
    assert code == 1
    assert "layer_replication" in out
    assert "\x1b" not in out
    assert err == f"lorikeet: {folder} would not load: 2 reasons\n"
    code, out, _ = run("check", folder, "--json", *where)
    codes = {each["code"] for each in json.loads(out)["findings"]}
    assert codes == {"unsupported_option", "unknown_key"}
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    code, out, _ = run("check", folder, "--json", *where)
    (finding,) = json.loads(out)["findings"]
    assert (code, finding["code"]) == (1, "pickle_only")
    assert "lorikeet adapters convert" in finding["fix"]
    assert listed(run, *where) == before


def test_check_against_a_named_base_touches_no_data_folder(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("check", world.adapters["formal"], "--model", world.base)[0] == 0
    code, out, _ = run("check", world.adapters["formal"], "--json")  # the demo's, whose shapes differ
    assert code == 1
    assert {each["code"] for each in json.loads(out)["findings"]} <= {"module_not_in_base", "shape_mismatch"}
    assert not list(tmp_path.iterdir())


def test_convert_makes_an_adapter_that_loads(run: Run, world: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.adapters["formal"], tmp_path / "old"))
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert run("check", folder, "--model", world.base)[0] == 1
    code, out, err = run("convert", folder, "--output", tmp_path / "new")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'new' / 'adapter_model.safetensors'}  {len(tensors)} tensors  ")
    assert run("check", tmp_path / "new", "--model", world.base)[0] == 0
    code, _, err = run("convert", folder, "--output", tmp_path / "new")
    assert code == 1
    assert err.count("\n") == 1


def test_a_url_is_enough_and_may_come_from_the_environment(
    run: Run, process: ServerProcess, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORIKEET_URL", process.url + "/")
    assert run("add", world.adapters["triage"], "--name", "by-url")[0] == 0
    assert "by-url" in listed(run)
    assert run("rm", "by-url")[0] == 0
    assert not list(tmp_path.iterdir()), "no data folder is made beside the caller"


def test_refusals_are_the_servers_words_on_one_line(run: Run, process: ServerProcess, world: World) -> None:
    where = ("--url", process.url)
    formal, friendly = world.adapters["formal"], world.adapters["friendly"]
    assert run("add", formal, "--name", "kept", *where)[0] == 0
    for words, reason in {
        ("add", friendly, "--name", "kept"): "taken by other bytes",
        ("add", world.base, "--name", "x"): "adapter_config.json",
        ("add", world.root, "--name", "x"): "adapter_config.json",
        ("add", "org/name", "--name", "x"): "--allow-hub",
        ("add", formal, "--name", "a b"): "is no adapter name",
        ("rm", "nobody"): "does not exist",
        ("rm", BASE): "is the base model",
        ("rm", "../x?y#z"): "does not exist",
    }.items():
        code, out, err = run(*words, *where)
        assert (code, out) == (1, ""), words
        (line,) = err.splitlines()
        assert line.startswith("lorikeet: ")
        assert reason in line
    assert run("add", friendly, "--name", "kept", "--replace", *where)[0] == 0
    assert run("rm", "kept", *where)[0] == 0


class Nonsense(http.server.BaseHTTPRequestHandler):
    """A server that is not ours."""

    def do_GET(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Nonsense) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/200", "/500", "/404"])
def test_an_answer_that_is_not_ours_is_one_line(run: Run, stranger: str, path: str) -> None:
    code, out, err = run("list", "--url", stranger + path)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("lorikeet: ")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "nowhere", "ftp:/x", "http://[::1", "http://127.0.0.1:x"]
)
def test_a_server_that_cannot_be_reached_is_one_line(run: Run, url: str) -> None:
    code, out, err = run("list", "--url", url)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"lorikeet: cannot reach a server at {url}: ")


def test_without_a_server_the_data_folder_is_worked_on(run: Run, world: World, tmp_path: Path) -> None:
    where = ("--data-dir", tmp_path)
    with Store(tmp_path) as store:
        store.notes.remember_base(ServedBase(str(world.base), "tiny"))
    assert run("add", world.adapters["formal"], "--name", "offline", *where)[0] == 0
    assert list(listed(run, *where)) == ["offline"]
    code, _, err = run("add", world.adapters["friendly"], "--name", "offline", *where)
    assert code == 1
    assert "taken by other bytes" in err
    code, out, _ = run("rm", "offline", *where)
    assert code == 0
    assert "bytes freed" in out
    assert listed(run, *where) == {}
    assert run("rm", "offline", *where)[0] == 1


@pytest.mark.parametrize("words", [("list",), ("rm", "formal")])
def test_what_is_no_data_folder_is_named_and_not_made_one(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    for folder, why in ((tmp_path / "typo", "does not exist"), (tmp_path, "has no catalogue")):
        code, out, err = run(*words, "--data-dir", folder)
        assert (code, out) == (1, "")
        assert err.startswith(f"lorikeet: {folder} is no data folder: it {why}; ")
        assert "--data-dir" in err
    assert not list(tmp_path.iterdir())


def test_adding_makes_a_data_folder_of_nothing_but_not_of_a_folder_in_other_use(
    run: Run, world: World, tmp_path: Path
) -> None:
    code, _, err = run("add", world.adapters["formal"], "--name", "a", "--data-dir", world.base)
    assert code == 1
    assert "is no data folder" in err
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty"):  # the demo's base, which `formal` does not fit
        code, _, err = run("add", world.adapters["formal"], "--name", "a", "--data-dir", folder)
        assert code == 1
        assert "no data folder" not in err
    code, out, _ = run("list", "--data-dir", tmp_path / "new")
    assert (code, out) == (0, "no adapters are registered\n")


def test_the_version_is_the_packages() -> None:
    done = lorikeet("--version")
    assert (done.returncode, done.stdout) == (0, f"lorikeet {version('lorikeet')}\n")


def test_a_folder_in_use_by_no_server_is_one_line(run: Run, tmp_path: Path) -> None:
    with Store(tmp_path):
        code, _, err = run("list", "--data-dir", tmp_path)
    assert code == 1
    assert err.count("\n") == 1
    assert "in use" in err


@pytest.mark.parametrize(
    "words", [["add"], ["add", "x"], ["rm"], ["list", "--nonsense"], ["frobnicate"]], ids=str
)
def test_wrong_usage_is_2(run: Run, words: list[str]) -> None:
    assert run(*words)[0] == 2


def test_the_command_works_as_a_user_starts_it(process: ServerProcess) -> None:
    done = lorikeet("adapters", "list", "--json", "--url", process.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(json.loads(done.stdout), list)
    done = lorikeet("adapters", "rm", "nobody", LORIKEET_URL=process.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_upkeep_through_the_server_and_on_the_folder(
    run: Run, process: ServerProcess, world: World, tmp_path: Path
) -> None:
    """The same words do the same to a running server and to a data folder."""
    data = tmp_path / "data"
    with Store(data) as store:
        store.notes.remember_base(ServedBase(str(world.base), "tiny"))
    # Files that no other name has, or nothing would come free on the disk.
    folders = [save_adapter(world.base, tmp_path / f"own-{seed}", rank=2, seed=seed) for seed in (71, 72)]
    for where in (("--url", process.url), ("--data-dir", data)):
        for folder in folders:
            assert run("add", folder, "--name", "cared-for", "--replace", *where)[0] == 0
        new, old = said(run, "show", "cared-for", *where)["generations"]
        told = f"cared-for  generation {old[:12]}, was {new[:12]}\n"
        assert run("rollback", "cared-for", *where) == (0, told, "")
        assert said(run, "rollback", "cared-for", new[:6], *where)["generation"] == new
        events = said(run, "history", "cared-for", *where)
        assert [each["event"] for each in events] == ["activated", "rolled_back", "replaced", "registered"]
        code, out, _ = run("history", "cared-for", *where)
        assert code == 0
        assert "rolled_back" in out
        assert out.count("current") == out.count("kept") == 1
        assert said(run, "pin", "cared-for", *where)["pinned"] is True
        assert run("pin", "cared-for", "--off", *where) == (0, "cared-for  not pinned\n", "")
        code, out, _ = run("show", "cared-for", *where)
        assert code == 0
        assert new in out
        code, out, err = run(
            "alias", "canary", "--to", f"cared-for@{old[:8]}=5", "--to", "cared-for=95", *where
        )
        assert (code, out, err) == (0, f"canary -> cared-for@{old[:12]}=5, cared-for=95\n", "")
        assert "canary" in run("alias", *where)[1]
        (alias,) = said(run, "alias", *where)
        assert [each["weight"] for each in alias["targets"]] == [5, 95]
        code, _, err = run("rm", "cared-for", *where)
        assert code == 1
        assert "`canary`" in err
        assert run("alias", "canary", "--remove", *where) == (0, "canary removed\n", "")
        answer = said(run, "rm", "cared-for", *where)
        assert answer["freed"]["disk"] > 0


def test_going_back_twice_goes_back_further_and_not_forth(run: Run, world: World, tmp_path: Path) -> None:
    with Store(tmp_path / "data") as store:
        store.notes.remember_base(ServedBase(str(world.base), "tiny"))
    where = ("--data-dir", tmp_path / "data")
    generations = []
    for folder in world.adapters.values():
        assert run("add", folder, "--name", "support", "--replace", *where)[0] == 0
        generations.append(said(run, "show", "support", *where)["generation"])
    first, second, _ = generations
    assert said(run, "rollback", "support", *where)["generation"] == second
    assert said(run, "rollback", "support", *where)["generation"] == first
    code, _, err = run("rollback", "support", *where)
    assert (code, "no generation older than" in err) == (1, True)


def said(run: Run, *words: object) -> Any:
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_what_upkeep_refuses_is_one_line(run: Run, tmp_path: Path, world: World) -> None:
    with Store(tmp_path) as store:
        store.notes.remember_base(ServedBase(str(world.base), "tiny"))
    where = ("--data-dir", tmp_path)
    assert run("add", world.adapters["formal"], "--name", "a", *where)[0] == 0
    for words, reason in {
        ("show", "nobody"): "does not exist",
        ("history", "nobody"): "does not exist",
        ("rollback", "a"): "no generation older than",
        ("rollback", "a", "ffffffffffff"): "no generation",
        ("pin", "nobody"): "does not exist",
        ("alias", "x", "--to", "nobody"): "does not exist",
        ("alias", "x", "--to", "a=much"): "no number",
        ("alias", "x", "--to", "a@ffffffffffff"): "no generation",
        ("alias", "a", "--to", "a"): "is an adapter already",
        ("alias", "x", "--remove"): "does not exist",
    }.items():
        code, out, err = run(*words, *where)
        assert (code, out) == (1, ""), words
        (line,) = err.splitlines()
        assert reason in line, words
    for usage in (
        ("alias", "x"),
        ("alias", "--remove"),
        ("alias", "x", "--to", "a", "--remove"),
        ("alias", "--to", "a"),
    ):
        assert run(*usage, *where)[0] == 2, usage


def test_compose_on_the_folder_and_through_the_server_makes_the_same_adapter(
    run: Run, process: ServerProcess, world: World, tmp_path: Path
) -> None:
    with Store(tmp_path / "data") as store:
        store.notes.remember_base(ServedBase(str(world.base), BASE))
    generations = []
    for where in (("--data-dir", tmp_path / "data"), ("--url", process.url)):
        for name in ("one", "two"):
            adapter = world.adapters["formal" if name == "one" else "friendly"]
            assert run("add", adapter, "--name", name, *where)[0] == 0
        code, out, err = run("compose", "both", "one:0.5", "two:-0.25", "--json", *where)
        assert (code, err) == (0, "")
        generations.append(json.loads(out)["generation"])
        code, _, err = run("compose", "both", "one:0.5+two:0.5", *where)
        assert (code, err.count("\n")) == (1, 1)
        assert "each part by itself" in err
    assert generations[0] == generations[1]
    for name in ("one", "two", "both"):
        run("rm", name, "--url", process.url)


class Asked(http.server.BaseHTTPRequestHandler):
    """Keeps the keys it was sent, and sends whoever asks for /away to another server."""

    keys: list[str | None]
    away = ""

    def do_GET(self) -> None:
        type(self).keys.append(self.headers["authorization"])
        self.send_response(307 if self.away else 200)
        self.send_header("location", f"{self.away}/v1/adapters")
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": [], "has_more": false}')

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def asked(away: str = "") -> Iterator[tuple[str, list[str | None]]]:
    keys: list[str | None] = []
    handler = type("Handler", (Asked,), {"keys": keys, "away": away})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", keys
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.safety("security 13")
def test_the_key_comes_from_the_environment_and_goes_to_the_server_named_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to whomever a redirect names."""
    with asked() as (other, seen_there), asked(away=other) as (url, seen_here):
        assert run("list", "--url", url)[0] == 0
        monkeypatch.setenv("LORIKEET_API_KEY", " lk-secret\n")
        assert run("list", "--url", url)[0] == 0
        assert seen_here == [None, None, "Bearer lk-secret", "Bearer lk-secret"]
        assert set(seen_there) == {None}
        for wrong in ("lk-sec\nret", "lk-s\u00e9cret"):
            monkeypatch.setenv("LORIKEET_API_KEY", wrong)
            code, _, err = run("list", "--url", url)
            assert code == 1
            assert "LORIKEET_API_KEY" in err
            assert "cret" not in err


def test_an_adapter_can_be_added_for_tenants(run: Run, world: World, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.notes.remember_base(ServedBase(str(world.base), BASE))
    words = ("add", world.adapters["formal"], "--name", "formal", "--data-dir", tmp_path)

    def tenants() -> list[str] | None:
        shown = json.loads(run("show", "formal", "--json", "--data-dir", tmp_path)[1])["tenants"]
        assert shown is None or isinstance(shown, list)
        return shown

    for more, expected in (
        (("--tenant", "acme", "--tenant", "beta"), ["acme", "beta"]),
        ((), ["acme", "beta"]),
        (("--tenant", "*"), None),
    ):
        code, _, err = run(*words, *more)
        assert (code, err) == (0, "")
        assert tenants() == expected
    assert run(*words, "--tenant", "a b")[0] == 1
