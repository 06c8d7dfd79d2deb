"""The documentation names everything that exists, and what the README shows is what the server answers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import CollectorRegistry

from lorikeet_adapters.families import PROVEN
from lorikeet_server.api.app import ROUTES
from lorikeet_server.config import ServerConfig
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.errors import FAILURES, TABLE
from lorikeet_server.job_commands import jobs
from lorikeet_server.key_commands import keys
from lorikeet_server.metrics import Metrics
from lorikeet_server.options import options_of

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


@pytest.mark.parametrize("flag", [name.replace("_", "-") for name, _, _ in options_of(ServerConfig)])
def test_every_flag_is_documented(flag: str) -> None:
    assert f"| `--{flag}` |" in REFERENCE


def whole_app() -> typer.Typer:
    """As the command line puts it together, but for `serve`, whose flags are the configuration's."""
    app = typer.Typer()
    app.callback()(lambda: None)
    app.add_typer(jobs, name="jobs")
    app.add_typer(keys, name="keys")
    for entry in entry_points(group="lorikeet.commands"):
        entry.load()(app)
    return app


def commands(found: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with all the words that call it."""
    for name, each in getattr(found, "commands", {}).items():
        yield from commands(each, (*words, name))
    if words and not getattr(found, "commands", {}):
        yield " ".join(words), found


COMMANDS = dict(commands(typer.main.get_command(whole_app())))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_its_flags_are_documented(command: str) -> None:
    """A flag stands in its command's section, whatever else stands there."""
    section = REFERENCE.partition(f"## `lorikeet {command.partition(' ')[0]}")[2].partition("\n## ")[0]
    assert section
    if " " in command:
        assert re.search(rf"`[a-z ]*\b{command.rpartition(' ')[2]}\b", section)
    params = COMMANDS[command].params
    flags = {flag for each in params for flag in each.opts if flag.startswith("--")}
    assert {flag for flag in flags if flag not in section} <= {"--help"}


def test_exactly_the_proven_families_are_listed() -> None:
    section = REFERENCE.partition("## Model families")[2].partition("Refused by name")[0]
    listed = set(re.findall(r"`([a-z0-9_-]+)`", section.partition("attention chunks too.")[2]))
    assert listed - {"granitemoehybrid"} == PROVEN


@pytest.mark.parametrize("path", sorted({route.path.replace(":path}", "}") for route in ROUTES}))
def test_every_route_is_documented(path: str) -> None:
    assert re.search(rf"`(GET|POST|PUT|PATCH|DELETE) {re.escape(path)}`", REFERENCE)


@pytest.mark.parametrize("code", sorted({row.code for row in TABLE.values()} | FAILURES.keys()))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"`{code}`" in REFERENCE


def test_every_code_of_a_finding_is_documented() -> None:
    assert {code for code in finding_codes() if f"`{code}`" not in REFERENCE} == set()


def finding_codes() -> Iterator[str]:
    """Every literal code in the trainer: RowFinding's third argument, and `find`'s second."""
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            place = {"RowFinding": 2, "find": 1, "_BadValue": 0}.get(name)
            if place is not None and len(node.args) > place:
                code = node.args[place]
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value


def test_the_table_of_errors_is_the_codes() -> None:
    """Each row of the table has the status that the code answers with, and none is made up."""
    section = REFERENCE.partition("\n## Errors")[2].partition("\n## ")[0]
    told = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| ([^|]*) \|", section, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    answered = {(row.status, row.code) for row in TABLE.values()}
    answered |= {(TABLE[kind].status, code) for code, kind in FAILURES.items()}
    sources = "".join(path.read_text() for path in (ROOT / "server" / "lorikeet_server" / "api").glob("*.py"))
    answered |= {(400, code) for code in re.findall(r'\bcode="(\w+)"', sources)}  # of RequestRefused
    before_any_route = {
        (404, "not_found"),
        (405, "method_not_allowed"),
        (408, "head_too_slow"),
        (400, "malformed_request"),
    }
    assert told == answered | before_any_route


def test_every_metric_is_documented() -> None:
    registry: CollectorRegistry = Metrics(EngineStats, "nf4").registry
    for metric in registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        name = f"{metric.name}_info" if metric.type == "info" else name
        assert f"`{name}" in REFERENCE, name


@pytest.mark.parametrize(
    "document", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target
