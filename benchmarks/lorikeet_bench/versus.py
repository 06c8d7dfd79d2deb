"""Two running servers under the same load, one after the other and again: what each gives, and the ratio.

They take turns on one machine, each alone at work while the other has nothing to do; the order turns
with every round, so that neither always follows the other. Each is asked in its own dialect and, if need
be, for models of its own; prompts are words, which each cuts into tokens of its own kind.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any

from rich.table import Table

from lorikeet_bench.interval import ratio_of_medians
from lorikeet_bench.machine import Machine
from lorikeet_bench.plan import FEWEST_REPETITIONS, PlanRefused
from lorikeet_bench.serving import check, drive
from lorikeet_bench.serving_report import Objectives, summarise
from lorikeet_bench.target import Target, told
from lorikeet_bench.workload import Dialect, Workload

FIGURES = ("output_throughput", "median_tpot_ms", "median_ttft_ms")


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, what it is asked for and how; `key` is sent as a bearer token, if there is one."""

    url: str
    models: tuple[str, ...]
    dialect: Dialect = Dialect.FULL
    key: str = ""


@dataclass(frozen=True, slots=True)
class VersusPlan:
    """`ours` over `theirs`, at least `wanted` times the throughput if that is not 0. Raises PlanRefused."""

    ours: Contender
    theirs: Contender
    workload: Workload
    rounds: int = FEWEST_REPETITIONS
    wanted: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < FEWEST_REPETITIONS:
            raise PlanRefused(f"--rounds is {self.rounds}, it must be at least {FEWEST_REPETITIONS}")
        if not 0 <= self.wanted < float("inf"):
            raise PlanRefused(f"--wanted is {self.wanted:g}, it must be a ratio of throughputs")


def run(plan: VersusPlan, machine: Callable[[], Machine], advance: Callable[[str], None]) -> dict[str, Any]:
    """Measure; returns the document. `advance` is called after each of 2 * (rounds + 1) turns, the first two to warm up."""
    started, described = datetime.now(UTC), machine()
    contenders = (plan.ours, plan.theirs)
    for contender in contenders:  # before the first is asked for long
        asyncio.run(check(contender.url, _asked(plan.workload, contender), contender.key))
    rounds: tuple[list[dict[str, Any]], ...] = ([], [])
    for turn in range(1 + plan.rounds):
        for place in (0, 1) if turn % 2 else (1, 0):
            summary = _ask(plan.workload, contenders[place])
            if turn:
                rounds[place].append(summary)
            advance(contenders[place].url)
    return {
        "benchmark": "versus",
        "date": started.isoformat(timespec="seconds"),
        "rounds": plan.rounds,
        "num_prompts": plan.workload.requests,
        "max_concurrency": plan.workload.concurrency,
        "prompt_words": plan.workload.prompt_words,
        "output_len": plan.workload.tokens,
        "popularity": plan.workload.popularity.value,
        **asdict(described),
        "results": [_row(*each) for each in zip(contenders, rounds, strict=True)],
        "ratios": {figure: asdict(_ratio(rounds, figure)) for figure in FIGURES},
        "targets": [asdict(each) for each in _targets(plan, rounds)],
    }


def make_table(document: Mapping[str, Any]) -> Table:
    """A row a server, then the ratios of the first to the second."""
    table = Table(
        title=f"{document['num_prompts']} requests, {document['max_concurrency']} at once",
        caption="\n".join([*told(document), _caption(document)]),
        caption_justify="left",
        caption_style="none",
    )
    table.add_column("server", overflow="fold")
    for heading in ("tok/s", "TPOT ms", "TTFT ms", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in document["results"]:
        table.add_row(
            f"{row['url']} {row['model_id'] or ''}",
            *(f"{row[figure]:.1f}" for figure in FIGURES),
            str(row["failed"]),
        )
    ratios = document["ratios"]
    table.add_row("first / second", *(f"{ratios[each]['value']:.2f}" for each in FIGURES), "")
    return table


def _ask(workload: Workload, contender: Contender) -> dict[str, Any]:
    """One pass with prompts of its own: nothing of them is in the server's cache."""
    own = replace(workload, models=contender.models, dialect=contender.dialect, nonce=secrets.token_hex(4))
    session = asyncio.run(drive(contender.url, own, contender.key))
    return summarise(session, Objectives.parse(""))


def _asked(workload: Workload, contender: Contender) -> Workload:
    return replace(workload, models=contender.models, dialect=contender.dialect)


def _row(contender: Contender, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said = rounds[-1]["server"]
    return {
        "url": contender.url,
        "models": list(contender.models),
        "dialect": contender.dialect.value,
        "model_id": said.get("model_id"),
        "server": dict(said),
        **{figure: median(each[figure] for each in rounds) for figure in FIGURES},
        "completed": sum(each["completed"] for each in rounds),
        "failed": sum(each["failed"] for each in rounds),
        "errors": [error for each in rounds for error in each["errors"]],
        "input_tokens": rounds[-1]["total_input_tokens"],
        "output_tokens": rounds[-1]["total_output_tokens"],
        **{f"samples_{figure}": [each[figure] for each in rounds] for figure in FIGURES},
    }


def _ratio(rounds: Sequence[Sequence[Mapping[str, Any]]], figure: str) -> Any:
    ours, theirs = ([each[figure] for each in group] for group in rounds)
    return ratio_of_medians(ours, theirs)


def _targets(plan: VersusPlan, rounds: Sequence[Sequence[Mapping[str, Any]]]) -> list[Target]:
    if not plan.wanted:
        return []
    return [Target.at_least("throughput over the other server's", _ratio(rounds, FIGURES[0]), plan.wanted)]


def _caption(document: Mapping[str, Any]) -> str:
    ratios = document["ratios"]
    bounds = ", ".join(
        f"{name} [{ratios[figure]['low']:.2f}, {ratios[figure]['high']:.2f}]"
        for name, figure in zip(("tok/s", "TPOT", "TTFT"), FIGURES, strict=True)
    )
    return (
        f"Medians of {document['rounds']} rounds in turns, {document['prompt_words']} words in and "
        f"{document['output_len']} tokens out; 95 % intervals of the ratios: {bounds}. "
        f"{document['cpu_model']}, commit {document['commit'] or 'unknown'}."
    )
