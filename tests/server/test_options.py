"""Flags, environment variables and help come from the fields, and from nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lorikeet_server.config import HttpConfig, ServerConfig
from lorikeet_server.options import build, command, option, options_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    top_speed: int = option(3, "How fast.", least=1, most=9)
    name: str = option("x", "Its name.", flag="called")
    plain: int = 7  # no flag


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    loud: bool = option(False, "Make noise.")
    where: Path = option(Path("here"), "A place.")
    colour: Colour = option(Colour.RED, "A colour.")
    many: tuple[str, ...] = option((), "Several.", flag="one")


def parse(*words: str, env: dict[str, str] | None = None) -> tuple[int, Outer | None, str]:
    seen: list[Outer] = []

    def run(config: Outer) -> None:
        """Do it."""
        seen.append(config)

    app = typer.Typer()
    app.command()(command(Outer, run))
    done = CliRunner().invoke(app, list(words), env=env)
    return done.exit_code, seen[0] if seen else None, done.output


def test_nothing_given_is_the_default() -> None:
    assert parse() == (0, Outer(), "")


def test_flags_set_fields_at_every_depth() -> None:
    words = [
        "--top-speed",
        "5",
        "--called",
        "y",
        "--loud",
        "--where",
        "there",
        "--colour",
        "blue",
        "--one",
        "a",
        "--one",
        "b",
    ]
    expected = Outer(Inner(5, "y"), True, Path("there"), Colour.BLUE, ("a", "b"))
    assert parse(*words)[1] == expected


def test_the_environment_sets_them_and_a_flag_wins() -> None:
    env = {
        "LORIKEET_TOP_SPEED": "4",
        "LORIKEET_CALLED": "env",
        "LORIKEET_COLOUR": "blue",
        "LORIKEET_LOUD": "1",
    }
    assert parse(env=env)[1] == Outer(Inner(4, "env"), True, colour=Colour.BLUE)
    found = parse("--top-speed", "6", env=env)[1]
    assert found is not None
    assert found.inner.top_speed == 6


@pytest.mark.parametrize(
    "words",
    [
        ["--top-speed", "0"],
        ["--top-speed", "10"],
        ["--top-speed", "x"],
        ["--colour", "green"],
        ["--plain", "1"],
        ["--name", "x"],
        ["--nonsense"],
        ["extra"],
    ],
    ids=str,
)
def test_what_is_wrong_is_wrong_usage(words: list[str]) -> None:
    code, config, _ = parse(*words)
    assert (code, config) == (2, None)


def test_a_value_out_of_bounds_in_the_environment_is_wrong_usage() -> None:
    assert parse(env={"LORIKEET_TOP_SPEED": "99"})[0] == 2


def test_help_shows_every_flag_with_its_words() -> None:
    text = parse("--help", env={"COLUMNS": "200", "TERM": "dumb"})[2]
    for flag, words in {"--top-speed": "How fast.", "--called": "Its name.", "--one": "Several."}.items():
        assert flag in text
        assert words in text
    assert "Do it." in text


def test_the_servers_names_are_unique_and_explained() -> None:
    names = [name for name, _, _ in options_of(ServerConfig)]
    assert len(set(names)) == len(names)
    for _, each, _ in options_of(ServerConfig):
        assert each.metadata["help"].endswith(".")


def test_the_servers_defaults_are_its_own_defaults() -> None:
    values = {
        name: None if isinstance(each.default, tuple) else each.default
        for name, each, _ in options_of(ServerConfig)
    }
    assert build(ServerConfig, values) == ServerConfig()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_counts_as_this_machine(host: str, loopback: bool) -> None:
    assert HttpConfig(host=host).is_loopback is loopback


def test_a_url_brackets_ipv6() -> None:
    assert HttpConfig(host="::1", port=80).url == "http://[::1]:80"
    assert HttpConfig().url == "http://127.0.0.1:8000"
