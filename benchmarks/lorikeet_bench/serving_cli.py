"""`lorikeet bench serving`: any OpenAI-compatible server by its URL."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorikeet_bench.output import check_out, finish, progress_bar
from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.workload import Dialect, Popularity, Workload

if TYPE_CHECKING:
    from lorikeet_bench.serving_report import Objectives

DEFAULT = Workload(("demo",))
KEY = "LORIKEET_API_KEY"
SpokenBy = Annotated[
    Dialect,
    typer.Option(
        help="What the server knows: plain is OpenAI's fields alone, llama.cpp takes numbers as adapters."
    ),
]


def serving(
    *,
    url: Annotated[str, typer.Option(help="The server's root.")] = "http://127.0.0.1:8000",
    models: Annotated[str, typer.Option(help="Names to ask for, with commas between.")] = "demo",
    requests: Annotated[int, typer.Option(help="Requests in all.")] = DEFAULT.requests,
    tokens: Annotated[int, typer.Option(help="Tokens each request generates.")] = DEFAULT.tokens,
    prompt_words: Annotated[int, typer.Option(help="Words of each prompt.")] = DEFAULT.prompt_words,
    concurrency: Annotated[int, typer.Option(help="Requests always under way (closed loop).")] = 8,
    rate: Annotated[
        float | None, typer.Option(help="Requests arriving a second (open loop), instead of --concurrency.")
    ] = None,
    burstiness: Annotated[
        float, typer.Option(help="Of arrivals: 1 is Poisson, less comes in bursts.")
    ] = DEFAULT.burstiness,
    popularity: Annotated[
        Popularity, typer.Option(help="How requests spread over the models.")
    ] = DEFAULT.popularity,
    skew: Annotated[float | None, typer.Option(help="Of zipf (1.5) and power (0.3).")] = None,
    goodput: Annotated[str, typer.Option(help="Objectives in ms, like ttft:200,tpot:50.")] = "",
    seed: Annotated[int, typer.Option(help="Decides prompts, arrivals and models.")] = DEFAULT.seed,
    reuse_prompts: Annotated[
        bool,
        typer.Option(help="Send the prompts of every run of this seed, which the server may have kept."),
    ] = False,
    dialect: SpokenBy = Dialect.FULL,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON document to.")] = None,
) -> None:
    """TTFT, TPOT, ITL, end to end, throughput and goodput of a running server.

    A key is read from LORIKEET_API_KEY.
    """
    try:
        from lorikeet_bench.serving_report import Objectives
    except ImportError as error:
        raise PlanRefused("asking a server needs httpx: pip install 'lorikeet[bench]'") from error

    workload = Workload(
        models=tuple(part for part in models.split(",") if part),
        requests=requests,
        tokens=tokens,
        prompt_words=prompt_words,
        concurrency=concurrency,
        rate=rate,
        burstiness=burstiness,
        popularity=popularity,
        skew=skew,
        seed=seed,
        nonce="" if reuse_prompts else secrets.token_hex(4),
        dialect=dialect,
    )
    objectives = Objectives.parse(goodput)
    if not url.startswith(("http://", "https://")):
        raise PlanRefused(f"--url is {url!r}; write it like http://127.0.0.1:8000")
    check_out(out)
    document = _measure(url, workload, objectives)
    from lorikeet_bench.serving_report import make_table

    finish(document, make_table(document), out)


def _measure(url: str, workload: Workload, objectives: Objectives) -> dict[str, Any]:
    with progress_bar() as progress:
        task = progress.add_task("warming up", total=workload.requests)
        import asyncio

        from lorikeet_bench.machine import describe_machine
        from lorikeet_bench.serving import drive
        from lorikeet_bench.serving_report import make_document, summarise

        machine, started = describe_machine(), datetime.now(UTC)
        session = asyncio.run(
            drive(
                url.rstrip("/"),
                workload,
                os.environ.get(KEY, ""),
                advance=lambda each: progress.update(task, advance=1, description="asking"),
            )
        )
    return make_document(url, workload, summarise(session, objectives), machine, started)
