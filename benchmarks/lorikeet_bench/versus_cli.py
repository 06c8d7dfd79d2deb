"""`lorikeet bench versus`: two running servers by their URLs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lorikeet_bench.output import check_out, finish, progress_bar
from lorikeet_bench.plan import FEWEST_REPETITIONS, PlanRefused
from lorikeet_bench.serving_cli import KEY, SpokenBy
from lorikeet_bench.workload import Dialect, Workload


def versus(
    *,
    url: Annotated[str, typer.Option(help="The first server's root.")] = "http://127.0.0.1:8000",
    models: Annotated[str, typer.Option(help="Names to ask the first for, with commas between.")] = "demo",
    dialect: SpokenBy = Dialect.FULL,
    against: Annotated[str, typer.Option(help="The second server's root.")],
    against_models: Annotated[str, typer.Option(help="Names to ask the second for.")],
    against_dialect: SpokenBy = Dialect.FULL,
    requests: Annotated[int, typer.Option(help="Requests a round, to each.")] = 16,
    tokens: Annotated[int, typer.Option(help="Tokens each request generates.")] = 64,
    prompt_words: Annotated[int, typer.Option(help="Words of each prompt.")] = 32,
    concurrency: Annotated[int, typer.Option(help="Requests always under way.")] = 8,
    rounds: Annotated[int, typer.Option(help="Turns of each server.")] = FEWEST_REPETITIONS,
    wanted: Annotated[float, typer.Option(help="Least ratio of throughputs to be met; 0: none.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Decides prompts and models.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON document to.")] = None,
) -> None:
    """Two servers take turns under one load: throughput, TPOT and TTFT of each, and the ratios.

    The first one's key is read from LORIKEET_API_KEY.
    """
    try:
        from lorikeet_bench.versus import Contender, VersusPlan, make_table, run
    except ImportError as error:
        raise PlanRefused("asking a server needs httpx: pip install 'lorikeet[bench]'") from error

    for option, value in (("--url", url), ("--against", against)):
        if not value.startswith(("http://", "https://")):
            raise PlanRefused(f"{option} is {value!r}; write it like http://127.0.0.1:8000")
    first, second = (tuple(filter(None, each.split(","))) for each in (models, against_models))
    for names in (first, second):
        Workload(names)  # refuses what cannot be asked for, before anything is measured
    plan = VersusPlan(
        Contender(url.rstrip("/"), first, dialect, os.environ.get(KEY, "")),
        Contender(against.rstrip("/"), second, against_dialect),
        Workload(
            first, requests, tokens=tokens, prompt_words=prompt_words, concurrency=concurrency, seed=seed
        ),
        rounds,
        wanted,
    )
    check_out(out)
    with progress_bar() as progress:
        task = progress.add_task("warming up", total=2 * (1 + rounds))
        from lorikeet_bench.machine import describe_machine

        document = run(
            plan, describe_machine, lambda asked: progress.update(task, advance=1, description=asked)
        )
    finish(document, make_table(document), out)
