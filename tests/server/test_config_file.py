"""`--config` means what the flags mean, and `--print-config` writes a file that means the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lorikeet_server.config import ServerConfig
from lorikeet_server.config_file import write
from lorikeet_server.options import build, command, options_of, values_of
from tests.server.test_options import Colour, Inner, Outer

FILE = """
top-speed = 5
loud = true
where = "there"
colour = "blue"
one = ["a", "b"]
"""
MEANT = Outer(Inner(5), True, Path("there"), Colour.BLUE, ("a", "b"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lorikeet.toml"
    path.write_text(FILE)
    return path


def parse(*words: object, env: dict[str, str] | None = None) -> tuple[int, Outer | None, str]:
    seen: list[Outer] = []
    app = typer.Typer()
    app.command()(command(Outer, seen.append))
    done = CliRunner().invoke(app, [str(word) for word in words], env={"TERMINAL_WIDTH": "200"} | (env or {}))
    return done.exit_code, seen[0] if seen else None, done.output


def test_a_file_sets_every_kind_of_flag(file: Path) -> None:
    assert parse("--config", file) == (0, MEANT, "")


def test_the_environment_may_name_the_file(file: Path) -> None:
    assert parse(env={"LORIKEET_CONFIG": str(file)})[1] == MEANT


def test_the_environment_wins_over_the_file_and_a_flag_over_both(file: Path) -> None:
    env = {"LORIKEET_TOP_SPEED": "6", "LORIKEET_COLOUR": "red"}
    found = parse("--where", "elsewhere", "--one", "c", "--top-speed", 7, "--config", file, env=env)[1]
    assert found == Outer(Inner(7), True, Path("elsewhere"), Colour.RED, ("c",))


def test_a_file_is_not_looked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert parse() == (0, Outer(), "")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("speed = 3", "`speed`"),  # no such flag
        ("top_speed = 3", "`top_speed`"),
        ("[inner]\ntop-speed = 3", "`inner`"),
        ("config = 'x'", "`config`"),
        ("top-speed = '3'", "a whole number"),
        ("top-speed = true", "a whole number"),
        ("top-speed = 3.0", "a whole number"),
        ("top-speed = 10", "less than or equal to 9"),
        ("loud = 1", "true or false"),
        ("where = 1", "a string"),
        ("where = 2026-01-01", "a string"),
        ("colour = 'green'", "green"),
        ("one = 'a'", "a list of strings"),
        ("one = [1]", "a list of strings"),
        ("loud = true\nloud = true", "not TOML"),
        ("loud", "not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(file: Path, text: str, named: str) -> None:
    file.write_text(text)
    code, config, output = parse("--config", file)
    assert (code, config) == (2, None)
    assert named in " ".join(output.replace("│", " ").split())


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"loud = \xff")
    for path, reason in {
        tmp_path / "none": "No such file",
        tmp_path: "directory",
        broken: "not TOML",
    }.items():
        code, config, output = parse("--config", path)
        assert (code, config) == (2, None)
        assert reason in " ".join(output.replace("│", " ").split())


def test_what_is_printed_means_the_same_and_nothing_runs(file: Path, tmp_path: Path) -> None:
    code, config, text = parse("--config", file, "--top-speed", 8, "--print-config")
    assert (code, config) == (0, None)
    printed = tmp_path / "printed.toml"
    printed.write_text(text)
    assert parse("--config", printed)[1] == Outer(Inner(8), True, Path("there"), Colour.BLUE, ("a", "b"))


# A file of TOML has Unicode's characters; surrogates are none.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    texts=st.lists(TEXT, max_size=4),
    place=TEXT,
    speed=st.integers(1, 9),
    loud=st.booleans(),
    colour=st.sampled_from(Colour),
)
def test_any_value_survives_being_written_and_read(
    texts: list[str], place: str, speed: int, loud: bool, colour: Colour
) -> None:
    made = Outer(Inner(speed), loud, Path(place), colour, tuple(texts))
    found: dict[str, Any] = tomllib.loads("\n".join(write(values_of(made))))
    values = {name: found[name.replace("_", "-")] for name, _, _ in options_of(Outer)}
    assert build(Outer, values | {"where": Path(values["where"]), "colour": Colour(values["colour"])}) == made


def test_the_servers_own_flags_are_all_written() -> None:
    found = tomllib.loads("\n".join(write(values_of(ServerConfig()))))
    assert set(found) == {name.replace("_", "-") for name, _, _ in options_of(ServerConfig)}
    assert (found["port"], found["model"], found["adapter"]) == (8000, "demo", [])
