"""Schemathesis over /openapi.json: whatever the document lets a client send, the answer is one it names.

It runs in this process, before a real registry and scripted answers, with every check there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from starlette.applications import Starlette

from lorikeet_adapters.mix import Mix
from lorikeet_server.api.app import create_app
from lorikeet_server.api.document import document
from lorikeet_server.config import HttpConfig
from lorikeet_server.engine.request import Request
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.keyring import Keyring, add_key
from lorikeet_server.metrics import Metrics
from lorikeet_server.request_log.log import Bounds
from tests.server.world import (
    LOCAL,
    Script,
    Scripted,
    Server,
    World,
    client_of,
    finished,
    make_server,
    prompt_scores,
    token,
)

# What fields mean together, and what a name may be where, JSON Schema does not say: data that it lets
# pass may still be refused, and by these statuses only.
ACCEPTED = ["2xx", "400", "401", "403", "404", "409", "412", "422"]
CHECKS: dict[str, Any] = {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}
# An adapter may be called `compose`, so its record's methods are this path's, too.
COMPOSE = {
    "include-path": "/v1/adapters/compose",
    "checks": {**CHECKS, "allow_header_conformance": {"enabled": False}},
}

# Of the same body as /generate_stream, /tokenize and /detokenize, whose every keyword is covered.
TWINS = ("/", "/generate", "/v1/tokenize", "/v1/detokenize")


@dataclass(frozen=True, slots=True)
class Report:
    """`failures` says for each what was sent and which check it failed; `errors` what could not be tried."""

    cases: int
    operations: frozenset[str]
    failures: list[str]
    errors: list[str]


@contextmanager
def scripted_app(world: World, folder: Path, *, with_keys: bool) -> Iterator[tuple[Starlette, str]]:
    """The application, and the operator's key where there are keys."""
    file = folder / "keys.toml"
    key = add_key(file, "operator", ["generate", "admin", "metrics"], None) if with_keys else ""
    with make_server(world, folder / "data", log=Bounds()) as server:
        assert server.log is not None
        server.log.start()
        services = replace(
            server.services,
            requests=Scripted(lambda request: _answered(server, request)),
            metrics=Metrics(EngineStats, "fp32"),
            keys=Keyring(file) if with_keys else None,
            http=HttpConfig(),
        )
        yield create_app(services), key


def _answered(server: Server, request: Request) -> Script:
    """At once, so its adapters are free again at once, too."""
    mix: Mix = request.mix
    server.registry.release(mix)
    return Script(*prompt_scores(request), token(request), finished(request))


def probe(app: Starlette, key: str, *, examples: int, seed: int = 1, covered_once: bool = False) -> Report:
    """Coverage of every keyword, then `examples` drawn for each operation, then sequences of operations."""
    drawn = [
        {"include-path": path, "phases": {"coverage": {"enabled": False}}} for path in TWINS if covered_once
    ]
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "base-url": LOCAL,
            "headers": {"x-lorikeet": "1"},
            "generation": {
                "deterministic": True,
                "max-examples": examples,
                "database": "none",
                "no-shrink": True,  # a failure tells what was sent as it is
            },
            "checks": CHECKS,
            "operations": [COMPOSE, *drawn],
            **({"auth": {"openapi": {"key": {"bearer": key}}}} if key else {}),
        }
    )
    schema = schemathesis.openapi.from_dict(client_of(app).get("/openapi.json").json(), config=config)
    schema.app = app
    cases, operations = 0, set()
    failures: dict[tuple[str, str, str], str] = {}
    errors: list[str] = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            errors.append(str(event.info if isinstance(event, events.NonFatalError) else event.exception))
        if not isinstance(event, events.ScenarioFinished):
            continue
        operations |= {each.value.operation.label for each in event.recorder.cases.values()}
        for case, checks in event.recorder.checks.items():
            cases += 1
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    label = event.recorder.cases[case].value.operation.label
                    told = f"{label}: {failure.title}\n{failure.message}\n{check.failure_info.code_sample}"
                    failures.setdefault((check.name, label, failure.title), told)
    return Report(cases, frozenset(operations), list(failures.values()), errors)


def check_contract(world: World, folder: Path, *, with_keys: bool, **extent: Any) -> Report:
    """`extent` is how much of it, as `probe` has it."""
    with scripted_app(world, folder, with_keys=with_keys) as (app, key):
        report = probe(app, key, **extent)
    assert not report.errors, report.errors
    assert not report.failures, "\n\n".join(report.failures)
    paths = document()["paths"]
    assert report.operations == {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    return report
